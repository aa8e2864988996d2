def place(*a): return {}
