//! Paths as names below other paths, each name kept once.

use std::collections::HashMap;

/// One path.
pub(super) type Node = usize;

/// The path of the root.
pub(super) const TOP: Node = 0;

/// Paths that were met.
#[derive(Debug, Default)]
pub(super) struct Paths {
    known: HashMap<(Node, Vec<u8>), Node>,
    /// Parent and name of the paths from 1 on.
    nodes: Vec<(Node, Vec<u8>)>,
}

impl Paths {
    /// The path of `name` in the directory `parent`.
    pub(super) fn below(&mut self, parent: Node, name: Vec<u8>) -> Node {
        let next = self.nodes.len() + 1;
        let node = *self.known.entry((parent, name.clone())).or_insert(next);
        if node == next {
            self.nodes.push((parent, name));
        }
        node
    }

    /// The directory that a path lies in; the root's is the root.
    pub(super) fn parent(&self, node: Node) -> Node {
        self.at(node).map_or(TOP, |(parent, _)| *parent)
    }

    /// The last name of a path.
    pub(super) fn name(&self, node: Node) -> &[u8] {
        self.at(node).map_or(&[], |(_, name)| name)
    }

    fn at(&self, node: Node) -> Option<&(Node, Vec<u8>)> {
        self.nodes.get(node.checked_sub(1)?)
    }

    /// All of them with their names from the root, in the order of those.
    pub(super) fn in_order(&self) -> Vec<(Node, Vec<Vec<u8>>)> {
        let mut all: Vec<_> = (1..=self.nodes.len()).map(|node| (node, self.names(node))).collect();
        all.sort_unstable_by(|one, other| one.1.cmp(&other.1));
        all
    }

    fn names(&self, mut node: Node) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        while let Some((parent, name)) = self.at(node) {
            names.push(name.clone());
            node = *parent;
        }
        names.reverse();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_however_often_it_is_met() {
        let mut paths = Paths::default();
        let b = paths.below(TOP, b"b".to_vec());
        let bc = paths.below(b, b"c".to_vec());
        let a = paths.below(TOP, b"a".to_vec());
        assert_eq!(paths.below(b, b"c".to_vec()), bc);
        assert_eq!((paths.parent(bc), paths.name(bc)), (b, &b"c"[..]));
        assert_eq!((paths.parent(TOP), paths.name(TOP)), (TOP, &b""[..]));
        let in_order: Vec<_> = paths.in_order().into_iter().map(|(node, _)| node).collect();
        assert_eq!(in_order, [a, b, bc]);
    }
}
