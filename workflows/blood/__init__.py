"""Blood smears: the white-cell differential, red cells and platelets."""
