"""Models that come with Coverslip, each a package's folder; tools/train_model.py trains them again."""
