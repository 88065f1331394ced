"""Who may ask: everyone, whoever has a static token, or users who log in with a password.

Secrets come from files that may change while the server runs. Everything fails closed: a file that cannot be followed
ends the start, and later the last good content stays valid.
"""
