"""Generated gRPC stubs; made by `python proto/generate.py` (`make proto`), never edited.

`runtime.v1.api_pb2(_grpc)` is CRI, `node.v1.node_pb2(_grpc)` is our own Node service.
"""
