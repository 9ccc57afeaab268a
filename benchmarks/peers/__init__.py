"""What benchmarks compare with: other libraries, and hand-written code."""
