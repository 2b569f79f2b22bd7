//! CVE-2017-15361: RSA keys of one chip maker's generator can be factored, and are told by their modulus.
//!
//! Its primes are of the form k·M + 65537^a mod M, M being the product of the first primes, so the modulus is a power of
//! 65537 modulo each of those. A sound modulus passes all of these tests by chance about once in 2^28.

const GENERATOR: u32 = 65_537;

/// Those of the first primes modulo which 65537 does not generate everything.
const PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];

pub(super) fn is_factorable(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|prime| is_power(remainder(modulus, *prime), *prime))
}

fn remainder(number: &[u8], prime: u32) -> u32 {
    number.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime)
}

fn is_power(value: u32, prime: u32) -> bool {
    let mut power = 1;
    for _ in 1..prime {
        if power == value {
            return true;
        }
        power = power * (GENERATOR % prime) % prime;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `number` times 65537, big-endian.
    fn times_generator(number: &[u8]) -> Vec<u8> {
        let mut product = vec![0; number.len() + 2];
        let mut carry = 0;
        for at in (0..product.len()).rev() {
            let digit =
                |back: usize| at.checked_sub(back).and_then(|at| number.get(at)).map_or(0, |byte| u32::from(*byte));
            let sum = digit(2) + digit(0) + carry;
            product[at] = u8::try_from(sum % 256).unwrap();
            carry = sum / 256;
        }
        assert_eq!(carry, 0);
        product
    }

    #[test]
    fn knows_a_power_of_the_generator_from_its_neighbours() {
        assert_eq!(times_generator(&[1]), [1, 0, 1]);
        let mut number = (0..128).fold(vec![1], |number, _| times_generator(&number));
        assert!(is_factorable(&number));
        for _ in 0..20 {
            *number.last_mut().unwrap() = number.last().unwrap().wrapping_add(2);
            assert!(!is_factorable(&number));
        }
    }
}
