"""Pure values of the OCI and Docker image formats. No I/O."""
