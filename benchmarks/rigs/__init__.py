"""What benchmarks and tests stand on alike: hosts in network namespaces, and a proxy that delays, counts and fails."""
