// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing the pressure on a disk, the rules for its memory, and how many of its requests are
//! timed, while it is used.

use super::Device;
use crate::backend;
use crate::config::set::{InForce, SetOptions};
use crate::config::DeviceConfig;
use crate::error::Failure;
use crate::mq::Queue;

impl Device {
    /// The config of a device as this one is, after `options`. A failure tells that they are refused.
    pub fn config_after(&self, options: &SetOptions) -> Result<DeviceConfig, Failure> {
        let settings = self.driver.settings();
        options.pressure.check_for(&settings)?;
        let pressure = options.pressure.applied_to(&settings);
        let space = backend::changed_memory(&self.config, self.driver.disk(), &options.memory)?;
        let sample = self.queue().map_or(0, Queue::timed_of);
        let config = DeviceConfig {
            pressure,
            space,
            latency_sample: options.latency_sample.unwrap_or(sample),
            ..self.config.clone()
        };
        config.check_rules()?;
        Ok(config)
    }

    /// Has the requests go on that the rule of this name holds.
    pub fn release(&self, rule: &str) -> Result<(), Failure> {
        self.driver.release(rule)
    }

    /// Changes what the options name, and returns what is in force then. A failure changes nothing.
    pub fn set(&mut self, options: &SetOptions) -> Result<InForce, Failure> {
        // What can be refused is judged before anything is changed.
        let space = self.config_after(options)?.space;
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
