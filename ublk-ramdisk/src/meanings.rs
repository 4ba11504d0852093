// SPDX-License-Identifier: MIT OR Apache-2.0
//! Structs of figures that keep the documentation of their fields, for [`crate::explain`] to show.

/// Names of fields, and what they mean.
pub type Meanings = &'static [(&'static str, &'static str)];

/// A struct of figures: its fields' documentation is kept for [`entries`].
macro_rules! explained {
    (
        $(#[$of_struct:meta])*
        pub struct $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $(#[serde($($serde:tt)*)])?
                pub $field:ident: $ty:ty,
            )*
        }
    ) => {
        $(#[$of_struct])*
        pub struct $name {
            $(
                $(#[doc = $doc])+
                $(#[serde($($serde)*)])?
                pub $field: $ty,
            )*
        }

        impl $name {
            /// What each figure means.
            pub const MEANINGS: $crate::meanings::Meanings =
                &[$((stringify!($field), concat!($($doc),+)),)*];
        }
    };
}
pub(crate) use explained;
