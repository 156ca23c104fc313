"""The protocol `secagg`, pure: pairwise and self masks on a sparse graph, shared among neighbours."""
