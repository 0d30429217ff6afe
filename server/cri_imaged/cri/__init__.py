"""gRPC faces: ImageService, RuntimeService, Node; conversion, error mapping, server set-up."""
