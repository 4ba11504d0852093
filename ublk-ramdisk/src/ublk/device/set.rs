// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing the pressure on a disk, the rules for its memory, and how many of its requests are timed,
//! while it is used.

use super::Device;
use crate::backend;
use crate::config::check_pressure;
use crate::config::space_changes::{InForce, SpaceChanges};
use crate::error::Failure;
use crate::pressure::Changes;

impl Device {
    /// Changes what refuses, slows down or fails requests, or of how many one is timed, and answers
    /// what is in force then.
    /// Nothing is changed by a failure.
    pub fn set(
        &mut self,
        changes: &Changes,
        memory: &SpaceChanges,
        latency_sample: Option<u32>,
    ) -> Result<InForce, Failure> {
        check_pressure(&changes.applied_to(&self.driver.settings()))?;
        let space = backend::changed_memory(&self.config, self.driver.disk(), memory)?;
        let mirror = self.mirror.as_ref();
        let mirror = mirror.ok_or_else(|| Failure::runtime("the disk is being taken away"))?;
        let pressure = mirror.pressure().apply(&self.driver, changes);
        let pressure = pressure.map_err(|e| Failure::environment(format!("--psi: {e}")))?;
        backend::set_memory(&mut self.config, self.driver.disk(), space);
        if let Some(of) = latency_sample {
            mirror.queue().time_one_of(of);
        }
        let sample = mirror.queue().timed_of();
        Ok(InForce::new(pressure, &self.config.space, sample))
    }
}
