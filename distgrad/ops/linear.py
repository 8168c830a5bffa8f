"""Products of many operands or dimensions: bmm, outer, einsum, tensordot, addmm and their kin."""
