//! What an operator has the control thread do, by the management API.

use super::{ControlThread, words};
use crate::admin::BrokerStage;
use crate::admin::api::{Order, OrderReply};
use crate::broker::log::LogLevels;
use crate::config::LogLevel;
use crate::contained::{self, ContainedThread, PanicFlag};
use crate::doctor;

type Done = Result<String, Vec<String>>;

impl ControlThread<'_> {
    /// Does what an operator orders.
    pub(super) fn obey(&mut self, order: &Order, reply: OrderReply) {
        let done = match order {
            Order::Resume | Order::StartListener(_) if self.leaving.is_some() => {
                self.not_while_leaving().map(|()| String::new())
            }
            Order::Reload => self.reload().map(|()| String::new()),
            Order::SetLevels(level, modules) => self.change_levels(*level, modules.as_deref()),
            Order::Levels => Ok(self.shown_levels()),
            Order::Show => self.sources.effective().map_err(|problems| words(&problems.0)),
            Order::StopListener(name) => self.stop_listener(name),
            Order::StartListener(name) => self.start_listener(name),
            Order::Drain => self.close_listeners(),
            Order::LeaveCluster { per_second, patience } => {
                self.begin_leaving(*per_second, *patience)
            }
            Order::Resume => {
                let all: Vec<String> =
                    self.stopped.iter().map(|listener| listener.name.to_string()).collect();
                let done = all.iter().try_fold(String::new(), |_, name| self.start_listener(name));
                self.broker.admin.enter(BrokerStage::Ready);
                done
            }
            Order::Doctor => {
                // It may try the disk: not on this thread.
                let config = self.config.clone();
                let look = move || {
                    contained::contain(ContainedThread::Doctor, PanicFlag::default());
                    drop(reply.send(Ok(doctor::examine(&config, None).json())));
                };
                let started = std::thread::Builder::new().name("doctor".to_owned()).spawn(look);
                if let Err(error) = started {
                    tracing::warn!(%error, "no thread for the doctor");
                }
                return;
            }
        };
        // Who ordered may have gone.
        let _ = reply.send(done);
    }

    /// Logs from now on what these levels let through.
    pub(super) fn set_levels(&mut self, levels: LogLevels) {
        self.log.set_levels(&levels);
        self.levels = levels;
    }

    /// What is not said stays as it is.
    fn change_levels(
        &mut self,
        level: Option<LogLevel>,
        modules: Option<&[(String, LogLevel)]>,
    ) -> Done {
        let mut levels =
            LogLevels { level: level.unwrap_or(self.levels.level), ..self.levels.clone() };
        if let Some(modules) = modules {
            levels = levels.with_modules(modules).map_err(|what| vec![what])?;
        }
        let (level, modules) = (levels.level, &levels.modules);
        tracing::warn!(?level, ?modules, "what is logged was changed by an operator");
        self.set_levels(levels);
        Ok(self.shown_levels())
    }

    fn shown_levels(&self) -> String {
        let LogLevels { level, modules } = &self.levels;
        serde_json::json!({"level": level, "modules": modules}).to_string()
    }

    /// Closes a listener until it is started or the configuration is read again. Who is connected
    /// stays.
    pub(super) fn stop_listener(&mut self, name: &str) -> Done {
        let Some(config) = self.broker.stop_listener(name) else {
            return Err(vec![format!("no listener `{name}` is open")]);
        };
        tracing::warn!(listener = name, "listener stopped by an operator");
        self.stopped.push(config);
        Ok(String::new())
    }

    /// Opens a listener that was stopped.
    fn start_listener(&mut self, name: &str) -> Done {
        let Some(at) = self.stopped.iter().position(|listener| *listener.name == *name) else {
            return Err(vec![format!("no listener `{name}` is stopped")]);
        };
        let config = self.stopped[at].clone();
        let bound =
            self.broker.open_listener(&config).map_err(|failure| vec![failure.to_string()])?;
        tracing::info!(%bound, "listener started by an operator");
        self.stopped.remove(at);
        Ok(String::new())
    }
}
