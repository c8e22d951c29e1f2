"""What looks at pixels and says something: model packages, inference, nuclei, training."""
