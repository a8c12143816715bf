//! Texts that a million clients multiply: ClientIds and filters. A text takes 16 bytes, in which up
//! to 14 bytes fit. Longer ones are in an allocation of the smallest of the allocator's sizes that
//! they fit in. Pure.

use std::ops::Deref;

/// The bytes that fit without an allocation.
const INLINE: usize = 14;

/// Defines the text with a variant for each size of an allocation.
macro_rules! compact_text {
    ($($size:literal $variant:ident),+) => {
        /// An immutable text.
        #[derive(Clone)]
        pub struct CompactText(Held);

        #[derive(Clone)]
        enum Held {
            Inline(u8, [u8; INLINE]),
            $($variant(u8, Box<[u8; $size]>),)+
            Long(Box<Box<str>>),
        }

        impl From<&str> for CompactText {
            fn from(text: &str) -> CompactText {
                let length = text.len();
                if length <= INLINE {
                    let mut bytes = [0; INLINE];
                    bytes[..length].copy_from_slice(text.as_bytes());
                    return CompactText(Held::Inline(length as u8, bytes));
                }
                $(if length <= $size {
                    let mut bytes = Box::new([0; $size]);
                    bytes[..length].copy_from_slice(text.as_bytes());
                    return CompactText(Held::$variant(length as u8, bytes));
                })+
                CompactText(Held::Long(Box::new(text.into())))
            }
        }

        impl CompactText {
            /// A copy on its own.
            pub fn boxed(&self) -> Box<str> {
                (**self).into()
            }

            /// How many bytes it has.
            pub fn len(&self) -> usize {
                self.as_bytes().len()
            }

            /// True when it has none.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// The text as bytes.
            pub fn as_bytes(&self) -> &[u8] {
                match &self.0 {
                    Held::Inline(length, bytes) => &bytes[..usize::from(*length)],
                    $(Held::$variant(length, bytes) => &bytes[..usize::from(*length)],)+
                    Held::Long(text) => text.as_bytes(),
                }
            }
        }
    };
}

compact_text!(16 Of16, 32 Of32, 48 Of48, 64 Of64, 80 Of80, 96 Of96, 112 Of112, 128 Of128);

// What the text is for.
const _: () = assert!(size_of::<CompactText>() == 16);
const _: () = assert!(size_of::<Option<CompactText>>() == 16);

impl Deref for CompactText {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Held::Long(text) => text,
            _ => std::str::from_utf8(self.as_bytes()).expect("it was made of a text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_any_length_is_what_it_was_made_of() {
        for length in 0..300 {
            let text: String = ('a'..='z').cycle().take(length).collect();
            let compact = CompactText::from(&*text);
            assert_eq!((&*compact, compact.as_bytes()), (&*text, text.as_bytes()));
            assert_eq!(&*compact.clone(), text);
        }
        assert_eq!(&*CompactText::from("größer als üblich"), "größer als üblich");
    }
}
