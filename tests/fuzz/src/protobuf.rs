use crate::Random;

/// The message with some of its fields changed, so that it stays well-formed: bytes changed at random seldom do.
pub fn protobuf(message: &[u8], random: &mut Random) -> Vec<u8> {
    let Some(mut fields) = read(message) else { return message.to_vec() };
    for _ in 0..=random.below(3) {
        change(&mut fields, random);
    }
    written(&fields)
}

#[derive(Clone)]
struct Field {
    /// With the wire type in its lowest three bits.
    key: u64,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Varint(u64),
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
}

fn change(fields: &mut Vec<Field>, random: &mut Random) {
    let at = random.below(fields.len());
    let Some(field) = fields.get_mut(at) else { return };
    match random.below(8) {
        0 => drop(fields.remove(at)),
        1 => {
            let (copy, to) = (field.clone(), random.below(fields.len()));
            fields.insert(to, copy);
        }
        2 => {
            let to = random.below(fields.len());
            fields.swap(at, to);
        }
        3 => field.key = (u64::try_from(random.below(16)).unwrap_or(1) << 3) | (field.key & 7),
        4 => {
            let value = Value::Varint(*random.choose(&[0, 1, 2, 0x7f, 1 << 31, 1 << 32, 1 << 63, u64::MAX]));
            *field = Field { key: field.key & !7, value };
        }
        _ => match &mut field.value {
            Value::Varint(value) => *value ^= 1 << random.below(64),
            Value::Fixed(bytes) => {
                let at = random.below(bytes.len());
                bytes[at] = random.byte();
            }
            Value::Bytes(bytes) => inside(bytes, random),
        },
    }
}

/// A message within, or else a text.
fn inside(bytes: &mut Vec<u8>, random: &mut Random) {
    if let Some(mut fields) = read(bytes).filter(|fields| !fields.is_empty() && random.below(4) != 0) {
        change(&mut fields, random);
        *bytes = written(&fields);
        return;
    }
    let at = random.below(bytes.len() + 1);
    match random.below(4) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.byte()),
        2 => bytes.splice(at..at, b"\n\x1b[0m\0../=,".iter().copied()).for_each(drop),
        _ => *bytes = bytes.repeat(1 << random.below(8)),
    }
}

fn read(mut wire: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !wire.is_empty() {
        let key = varint(&mut wire)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut wire)?),
            1 => Value::Fixed(wire.split_off(..8)?.to_vec()),
            2 => {
                let length = usize::try_from(varint(&mut wire)?).ok()?;
                Value::Bytes(wire.split_off(..length)?.to_vec())
            }
            5 => Value::Fixed(wire.split_off(..4)?.to_vec()),
            _ => return None,
        };
        fields.push(Field { key, value });
    }
    Some(fields)
}

fn varint(wire: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *wire.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn written(fields: &[Field]) -> Vec<u8> {
    let mut wire = Vec::new();
    for Field { key, value } in fields {
        match value {
            Value::Varint(value) => {
                put(&mut wire, key & !7);
                put(&mut wire, *value);
            }
            Value::Fixed(bytes) => {
                put(&mut wire, *key);
                wire.extend_from_slice(bytes);
            }
            Value::Bytes(bytes) => {
                put(&mut wire, *key);
                put(&mut wire, bytes.len() as u64);
                wire.extend_from_slice(bytes);
            }
        }
    }
    wire
}

fn put(wire: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        wire.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    wire.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_well_formed_stays_so() {
        let wire = b"\x0a\x04\x12\x02hi\x10\x96\x01\x1d\0\0\0\0\x22\x03abc";
        assert_eq!(written(&read(wire).unwrap()), wire);
        let mut random = Random::new(1);
        for _ in 0..1000 {
            assert!(read(&protobuf(wire, &mut random)).is_some());
        }
        assert!(read(b"\x0a\x05x").is_none());
    }
}
