//! New inputs out of old ones: bytes, words of the target's language, and whole groups between brackets.

use std::ops::Range;

use crate::{Mutate, Random};

pub(crate) struct Mutator<'a> {
    words: &'a [&'a str],
    own: Option<Mutate<'a>>,
    longest: usize,
}

/// What readers of numbers, text and encodings stumble over.
const WORDS: [&str; 24] = [
    "",
    "0",
    "-1",
    "1e999",
    "18446744073709551616",
    "9223372036854775807",
    "4294967296",
    "\0",
    "\u{feff}",
    "\u{202e}",
    "ß",
    "é",
    "%2f",
    "..",
    "//",
    "\\u0000",
    "\\ud800",
    "\n",
    "\r\n",
    " ",
    "\"",
    "'",
    "null",
    "\u{7f}",
];
const BYTES: [u8; 10] = [0, 1, 0x0a, 0x1f, 0x20, 0x7f, 0x80, 0xc0, 0xfe, 0xff];

impl<'a> Mutator<'a> {
    pub(crate) fn new(words: &'a [&'a str], own: Option<Mutate<'a>>, longest: usize) -> Self {
        Self { words, own, longest }
    }

    pub(crate) fn mutant(&self, inputs: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut input = random.choose(inputs).clone();
        if let Some(own) = self.own
            && random.below(2) == 0
        {
            input = own(&input, random);
        } else {
            let changes = 1 + random.below(4);
            for _ in 0..changes {
                self.change(&mut input, inputs, random);
            }
        }
        input.truncate(self.longest);
        input
    }

    fn change(&self, input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
        match random.below(12) {
            0 => flip(input, random),
            1 => put(input, spot(input, random), &[*random.choose(&BYTES)]),
            2 => drop(input.drain(piece(input, random))),
            3 => {
                let copy = input[piece(input, random)].to_vec();
                put(input, spot(input, random), &copy);
            }
            4 => {
                let other = random.choose(others);
                let copy = other[piece(other, random)].to_vec();
                put(input, spot(input, random), &copy);
            }
            5 => {
                let other = random.choose(others);
                splice(input, other, random);
            }
            6 => {
                let word = self.word(random);
                put(input, spot(input, random), word);
            }
            7 => {
                let (run, word) = (run(input, random), self.word(random));
                input.splice(run, word.iter().copied());
            }
            8 => swap(input, random),
            9 => repeat(input, random),
            10 => {
                let group = group(input, random);
                let other = random.choose(others);
                let with = other[self::group(other, random)].to_vec();
                input.splice(group, with);
            }
            _ => {
                let group = group(input, random);
                let copy = input[group.clone()].to_vec();
                if random.below(2) == 0 { put(input, group.end, &copy) } else { drop(input.drain(group)) }
            }
        }
    }

    fn word(&self, random: &mut Random) -> &'a [u8] {
        if self.words.is_empty() || random.below(4) == 0 {
            random.choose(&WORDS).as_bytes()
        } else {
            random.choose(self.words).as_bytes()
        }
    }
}

fn flip(input: &mut [u8], random: &mut Random) {
    let at = random.below(input.len());
    if let Some(byte) = input.get_mut(at) {
        *byte = if random.below(2) == 0 { *byte ^ (1 << random.below(8)) } else { random.byte() };
    }
}

/// The end of this one's beginning becomes the end of another.
fn splice(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    input.truncate(random.below(input.len() + 1));
    input.extend_from_slice(&other[random.below(other.len() + 1)..]);
}

/// Two groups, or runs of letters and digits, change places.
fn swap(input: &mut Vec<u8>, random: &mut Random) {
    let (one, other) = (run(input, random), run(input, random));
    let (one, other) = if one.start <= other.start { (one, other) } else { (other, one) };
    if one.end <= other.start {
        let (first, second) = (input[one.clone()].to_vec(), input[other.clone()].to_vec());
        input.splice(other, first);
        input.splice(one, second);
    }
}

/// Much of the same, for what grows faster than its input.
fn repeat(input: &mut Vec<u8>, random: &mut Random) {
    let part = if random.below(2) == 0 { piece(input, random) } else { group(input, random) };
    let copies = input[part.clone()].repeat(1 << random.below(8));
    put(input, part.end, &copies);
}

fn put(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

fn spot(input: &[u8], random: &mut Random) -> usize {
    random.below(input.len() + 1)
}

/// Some bytes, mostly few.
fn piece(input: &[u8], random: &mut Random) -> Range<usize> {
    let from = spot(input, random);
    let most = 1 << random.below(9);
    from..(from + random.below(most) + 1).min(input.len())
}

/// Letters and digits that belong together.
fn run(input: &[u8], random: &mut Random) -> Range<usize> {
    let at = spot(input, random);
    let part = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
    let from = at - input[..at].iter().rev().take_while(part).count();
    from..at + input[at..].iter().take_while(part).count()
}

/// From an opening bracket or quote to where it closes, or a line.
fn group(input: &[u8], random: &mut Random) -> Range<usize> {
    let at = spot(input, random);
    let opens = |byte: &u8| matches!(byte, b'{' | b'[' | b'(' | b'"');
    let Some(from) = input[at..].iter().position(opens).map(|offset| at + offset) else {
        let from = input[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |before| before + 1);
        return from..input[at..].iter().position(|byte| *byte == b'\n').map_or(input.len(), |offset| at + offset + 1);
    };
    let quote = input[from] == b'"';
    let mut depth = 0_usize;
    for (offset, byte) in input[from..].iter().enumerate() {
        match byte {
            b'"' if quote && offset > 0 => return from..from + offset + 1,
            b'{' | b'[' | b'(' if !quote => depth += 1,
            b'}' | b']' | b')' if !quote => depth = depth.saturating_sub(1),
            _ => {}
        }
        if !quote && depth == 0 {
            return from..from + offset + 1;
        }
    }
    from..input.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_ends_where_it_closes() {
        let text = br#"{"a":[1,{"b":2}],"c":3}"#;
        let mut random = Random::new(1);
        let groups: Vec<_> = (0..200).map(|_| String::from_utf8(text[group(text, &mut random)].to_vec())).collect();
        for expected in [r#"[1,{"b":2}]"#, r#"{"b":2}"#, r#""b""#] {
            assert!(groups.contains(&Ok(expected.to_owned())), "{expected}");
        }
    }

    #[test]
    fn mutants_are_never_longer_than_allowed_and_seldom_alike() {
        let mutator = Mutator::new(&["word"], None, 64);
        let seeds = [b"stores/a/secrets/b".to_vec(), b"{}".to_vec()];
        let mut random = Random::new(1);
        let mutants: std::collections::HashSet<_> = (0..1000).map(|_| mutator.mutant(&seeds, &mut random)).collect();
        assert!(mutants.iter().all(|mutant| mutant.len() <= 64));
        assert!(mutants.len() > 300, "{}", mutants.len());
    }
}
