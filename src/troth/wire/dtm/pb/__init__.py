"""DTM's messages over gRPC, generated from `proto/` by `make proto`. Needs the extra `troth[grpc]`."""
