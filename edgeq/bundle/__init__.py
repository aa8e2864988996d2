"""Artifact to a directory that an app can ship: staged under a temporary name, sealed, then renamed into place."""
