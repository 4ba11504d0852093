// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is compared: something that runs items on threads of its own. Ours are made in [`ours`], the others in
//! [`rivals`].
//!
//! Both ways in which such a thing is used are here, the same for all: closures that are made anew for each submission
//! ([`Contender::spawning`]), and items that are made once and submitted again and again ([`Contender::reusing`]).
//!
//! What an item does is borrowed for ever. This is to be kind to the rivals: their closures are two words and share no
//! reference count.

pub mod ours;

pub mod rivals;

/// What an item does; it gets the item's number.
pub type Body = &'static (dyn Fn(usize) + Sync);

/// The items of one producer. A call submits each once; those submitted by the call before must have run.
pub type Load = Box<dyn FnMut() + Send>;

/// Something that runs items on threads of its own.
pub struct Contender {
    /// The name in the tables.
    pub name: &'static str,
    load: Box<dyn Fn(usize, Body) -> Load>,
}

impl Contender {
    /// Prepares what one producer will submit again and again: `items` items of this body.
    pub fn load(&self, items: usize, body: Body) -> Load {
        (self.load)(items, body)
    }

    /// A contender that is handed a closure for each item, each time.
    fn spawning(name: &'static str, spawn: impl Fn(Body, usize) + Clone + Send + 'static) -> Self {
        let load = move |items, body| -> Load {
            // A copy for each producer, so that producers share nothing but what the contender itself shares.
            let spawn = spawn.clone();
            Box::new(move || (0..items).for_each(|number| spawn(body, number)))
        };
        Self {
            name,
            load: Box::new(load),
        }
    }

    /// A contender whose items are made once, by `make`. `submit` gets all of one producer.
    fn reusing<T: Send + 'static>(
        name: &'static str,
        make: impl Fn(Body, usize) -> T + 'static,
        submit: impl Fn(&[T]) + Clone + Send + 'static,
    ) -> Self {
        let load = move |items, body| -> Load {
            // Made here and not in the load: making an item is no part of what is measured.
            let submit = submit.clone();
            let items: Vec<T> = (0..items).map(|number| make(body, number)).collect();
            Box::new(move || submit(&items))
        };
        Self {
            name,
            load: Box::new(load),
        }
    }
}

/// All contenders. The rivals have this number of threads; ours have theirs per CPU, and make more when items wait.
pub fn all(threads: usize, runtime: &workqueue::Runtime) -> Vec<Contender> {
    let mut all = ours::all(runtime);
    all.push(ours::legacy());
    all.extend(rivals::all(threads));
    all
}
