"""Serves bundles from a volume over HTTP: a supervisor, generations of gunicorn, one Flask app."""
