"""From a socket to a question, and from an answer back: the worker of gunicorn, the lane, the Flask app."""
