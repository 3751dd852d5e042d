//! What a job's client can be asked to do.

use crate::proto::Job;

/// What a job's client can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Run the job, whatever its state is.
    Start,
    /// End its schedule, after a run that may be under way.
    Stop,
    /// End the run that is under way.
    Abort,
}

impl Event {
    /// The code, for programs, for an event that the job's state does not allow.
    #[must_use]
    pub(crate) fn refusal(self) -> &'static str {
        match self {
            Event::Start => "JOB_CANNOT_START",
            Event::Stop => "JOB_NOT_SCHEDULED_OR_RUNNING",
            Event::Abort => "JOB_NOT_RUNNING",
        }
    }

    /// The job with this event, set as Freezer sets it.
    ///
    /// # Errors
    /// Why the job's state does not allow the event.
    pub(crate) fn apply(self, job: &Job) -> Result<Job, String> {
        let mut job = job.clone();
        let schedule = job.job_schedule.get_or_insert_default();
        let status = schedule.status.as_str();
        let state = if status.is_empty() {
            "not scheduled yet".to_owned()
        } else {
            format!("{status:?}")
        };
        let event = match self {
            Event::Start => "start",
            Event::Stop if matches!(status, "scheduled" | "running") => "stop",
            Event::Stop => {
                return Err(format!(
                    "only a scheduled or running job can be stopped: this one is {state}"
                ));
            }
            Event::Abort if status == "running" => "abort",
            Event::Abort => {
                return Err(format!(
                    "only a running job can be aborted: this one is {state}"
                ));
            }
        };
        // A repeated event changes nothing: what the client has reported since must stay.
        if schedule.event != event {
            event.clone_into(&mut schedule.event);
            if self == Event::Start {
                schedule.status.clear();
                schedule.result.clear();
            }
        }
        Ok(job)
    }
}
