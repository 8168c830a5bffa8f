"""Loops as machine code: LLVM's intermediate code, and what is compiled of it."""
