"""What is under deploy/, and the Dockerfile: checked without a cluster and without a container
engine.
"""
