"""Generated gRPC stubs; made by `make proto`, never edited."""
