"""The format of bundles: manifest, verified reading, models.yaml, model.yaml. All the server knows of the loader."""
