"""Other quantizers, each as a program: `python -m benchmarks.peers.NAME IN DATA OUT [options]`."""
