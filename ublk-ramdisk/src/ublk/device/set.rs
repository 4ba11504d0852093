// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing the pressure on a disk, the rules for its memory, and how many of its requests are
//! timed, while it is used.

use super::Device;
use crate::backend;
use crate::config::check_pressure;
use crate::config::set::{InForce, SetOptions};
use crate::error::Failure;

impl Device {
    /// Changes what the options name, and returns what is in force then. A failure changes nothing.
    pub fn set(&mut self, options: &SetOptions) -> Result<InForce, Failure> {
        // Whatever can be refused is judged before anything is changed.
        check_pressure(&options.pressure.applied_to(&self.driver.settings()))?;
        let space = backend::changed_memory(&self.config, self.driver.disk(), &options.memory)?;
        let mirror = self.mirror.as_ref();
        let mirror = mirror.ok_or_else(|| Failure::runtime("the disk is being taken away"))?;
        let pressure = mirror.pressure().apply(&self.driver, &options.pressure);
        // The last step that can fail: it makes a trigger for PSI.
        let pressure = pressure.map_err(|e| Failure::environment(format!("--psi: {e}")))?;
        backend::set_memory(&mut self.config, self.driver.disk(), space);
        if let Some(of) = options.latency_sample {
            mirror.queue().time_one_of(of);
        }
        let sample = mirror.queue().timed_of();
        Ok(InForce::new(pressure, &self.config.space, sample))
    }
}
