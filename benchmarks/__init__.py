"""What distgrad costs, measured beside its peers in the same run: `make bench`, or `make bench ARGS=poly` for one."""
