"""Tests of the files under deploy/ and of the Dockerfile, without a cluster and without a container
engine.
"""
