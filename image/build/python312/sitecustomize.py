"""Gives Theano 1.0.5's setup.py back the two names of configparser that Python 3.12 dropped.

Used through PYTHONPATH while the wheel is built (image/build/install), and never installed.
"""

import configparser

if not hasattr(configparser, "SafeConfigParser"):
    configparser.SafeConfigParser = configparser.ConfigParser  # type: ignore[attr-defined]
    configparser.RawConfigParser.readfp = configparser.RawConfigParser.read_file  # type: ignore[attr-defined]
