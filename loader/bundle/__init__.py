"""The format of bundles: manifest, verified reading, models.yaml and model.yaml. All that the server imports of the loader."""
