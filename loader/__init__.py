"""Moves bundles from an object store to a volume: verified, resumable, never half done."""
