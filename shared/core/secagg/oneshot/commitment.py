"""A Merkle tree over a client's shares: one signature vouches for all, and each holder checks its own.

Source: RFC 9162, Section 2.1 (the prefixes of leaves and nodes).
"""

import hashlib


def levels(leaves: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], ...]:
    """All levels of the tree, the hashed leaves first, the root last; an odd node moves up as it is."""
    level = tuple(_leaf(leaf) for leaf in leaves)
    tree = [level]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[-1:] if len(level) % 2 else ()
        level = (*(_node(left, right) for left, right in pairs), *odd)
        tree.append(level)
    return tuple(tree)


def path(tree: tuple[tuple[bytes, ...], ...], index: int) -> tuple[bytes, ...]:
    """The siblings of leaf `index`, from the leaves up; none where a node moved up as it is."""
    siblings = []
    for level in tree[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            siblings.append(level[sibling])
        index //= 2
    return tuple(siblings)


def path_length(index: int, leaves: int) -> int:
    """How many siblings the path of leaf `index` has."""
    length = 0
    while leaves > 1:
        length += (index ^ 1) < leaves
        index, leaves = index // 2, -(-leaves // 2)
    return length


def root(leaf: bytes, index: int, leaves: int, siblings: tuple[bytes, ...]) -> bytes:
    """The root that leaf `index` of `leaves` leads to; `siblings` has `path_length` entries."""
    node, rest = _leaf(leaf), iter(siblings)
    while leaves > 1:
        if index ^ 1 < leaves:
            sibling = next(rest)
            node = _node(sibling, node) if index % 2 else _node(node, sibling)
        index, leaves = index // 2, -(-leaves // 2)
    return node


def _leaf(content: bytes) -> bytes:
    return hashlib.sha256(b"\0" + content).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
