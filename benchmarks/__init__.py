"""What cmesh costs, measured beside the same machine's own figures; see `benchmarks/run`."""
