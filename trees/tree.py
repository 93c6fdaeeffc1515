"""A conversation that branches, as a networkx graph.

Nodes are keyed by id and carry the `Node` value; an edge goes from a message to one that answers it. Children keep
the order in which they were added. Invariant: every node but the roots has exactly one parent in the same tree, so
the graph is a forest; `add` refuses anything else.
"""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from trees.values import BY_HAND, Continued, Judgement, Ledger, Node, Turn


class ConversationTree:
    """One persona's conversation with all its branches."""

    def __init__(self, tree_id: str) -> None:
        self.id = tree_id
        self.graph: nx.DiGraph = nx.DiGraph()
        self.ledgers: dict[str, Ledger] = {}
        """By user node."""
        self.judgements: dict[str, list[Judgement]] = {}
        """By user node, in the order they were made."""
        self.continued: dict[str, Continued] = {}
        """By node."""

    def __contains__(self, node_id: str) -> bool:
        return node_id in self.graph

    def __len__(self) -> int:
        return len(self.graph)

    def __getitem__(self, node_id: str) -> Node:
        node: Node = self.graph.nodes[node_id]["node"]
        return node

    def __iter__(self) -> Iterator[Node]:
        """Every node, parents before children."""
        return (self[node_id] for node_id in self.graph)

    def add(self, node: Node) -> None:
        """Hang a node under its parent. Raises ValueError for a second node of one id or a parent that is not here."""
        if node.id in self.graph:
            raise ValueError(f"node {node.id} is in tree {self.id} already")
        if node.tree_id != self.id:
            raise ValueError(f"node {node.id} belongs to tree {node.tree_id}, not to {self.id}")
        if node.parent_id is not None and node.parent_id not in self.graph:
            raise ValueError(f"node {node.id} has the parent {node.parent_id}, which tree {self.id} does not hold")
        self.graph.add_node(node.id, node=node)
        if node.parent_id is not None:
            self.graph.add_edge(node.parent_id, node.id)

    def add_turn(self, turn: Turn) -> None:
        """Add what a turn holds."""
        if turn.new_user:
            self.add(turn.user)
        if turn.ledger is not None:
            self.ledgers[turn.user.id] = turn.ledger
        for reply in turn.replies:
            self.add(reply)
        if turn.judgements:
            self.judgements.setdefault(turn.user.id, []).extend(turn.judgements)
        for mark in turn.continued:
            self.continued[mark.node_id] = mark

    def roots(self) -> list[Node]:
        """The openings: user nodes without a parent."""
        return [node for node in self if node.parent_id is None]

    def parent(self, node_id: str) -> Node | None:
        above = self[node_id].parent_id
        return None if above is None else self[above]

    def children(self, node_id: str) -> list[Node]:
        return [self[child] for child in self.graph.successors(node_id)]

    def siblings(self, node_id: str) -> list[Node]:
        """The nodes under the same parent, the node itself among them, in the order they were added."""
        above = self[node_id].parent_id
        return self.roots() if above is None else self.children(above)

    def path(self, node_id: str) -> list[Node]:
        """The conversation that ends at a node, from its root on."""
        nodes = [self[node_id]]
        while (above := nodes[-1].parent_id) is not None:
            nodes.append(self[above])
        nodes.reverse()
        return nodes

    def leaves(self) -> list[Node]:
        """The nodes that nothing answers."""
        return [node for node in self if self.graph.out_degree(node.id) == 0]

    def subtree(self, node_id: str) -> list[Node]:
        """A node and all that grew from it, parents before children."""
        return [self[below] for below in nx.dfs_preorder_nodes(self.graph, node_id)]

    def continued_path(self) -> list[Node]:
        """The conversation really played: of a user's messages the latest that no operation added, of replies the
        first that branching continued, before one that a person did. It ends with such a reply, or with the user node
        whose replies none was continued from.
        """
        path: list[Node] = []
        options = self.roots()
        while options:
            went_on = [n for n in options if n.id in self.continued]
            step = min(went_on, key=lambda n: self.continued[n.id].policy == BY_HAND, default=_latest_user(options))
            if step is None:
                break
            path.append(step)
            options = self.children(step.id)
        return path

    def turns(self) -> list[tuple[Node, list[Node]]]:
        """Every user node with the replies under it, in depth-first order."""
        ordered = (node for root in self.roots() for node in self.subtree(root.id))
        return [(node, self.children(node.id)) for node in ordered if node.speaker == "user"]

    def revealed(self, node_id: str) -> list[str]:
        """What the user had revealed along the path to a node, oldest first, each fact once."""
        facts = (f for n in self.path(node_id) if n.id in self.ledgers for f in self.ledgers[n.id].facts)
        return list(dict.fromkeys(facts))

    def judgement_of(self, user_id: str, judge_id: str, *replies: str) -> Judgement | None:
        """The latest complete judgement of a judge on a turn that covers these replies."""
        made = [j for j in self.judgements.get(user_id, ()) if j.judge_id == judge_id and j.complete]
        covering = [j for j in made if set(replies) <= set(j.covers)]
        return max(covering, key=lambda j: j.repeat, default=None)


def _latest_user(options: list[Node]) -> Node | None:
    """Of sibling user messages the one that counts: a person who takes a message back says another one after it."""
    users = [node for node in options if node.speaker == "user"]
    own = [node for node in users if node.operation_id is None]
    return own[-1] if own else next(iter(users), None)
