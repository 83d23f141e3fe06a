//! Incidents: what a job lost, and what became of it.

use prost_types::Timestamp;
use rekindle_types::{CausalRole, Incident, IncidentState, IncidentTimes, NotedFailure, StateSource};

use super::job::{enumeration, same_values};
use super::{ConvertError, epoch, from_unix_ms, optional, required, to_unix_ms, worker_id};
use crate::pb::v1 as pb;

same_values!(CausalRole, CausalRole, "role", [Initiating, Cascade, Unknown]);
same_values!(
    IncidentState,
    IncidentState,
    "state",
    [Tracing, Recovering, Recovered, Overtaken, Failed, Cancelled]
);
same_values!(
    StateSource,
    StateSource,
    "source",
    [Local, Shadow, Parity, Checkpoint, Beginning, NeighbourAverage]
);

impl From<&NotedFailure> for pb::NotedFailure {
    fn from(noted: &NotedFailure) -> Self {
        Self {
            time: Some(from_unix_ms(noted.time_unix_ms)),
            role: pb::CausalRole::from(noted.role).into(),
            seen_by: noted
                .seen_by
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            failure: Some((&noted.failure).into()),
        }
    }
}

impl TryFrom<pb::NotedFailure> for NotedFailure {
    type Error = ConvertError;

    fn try_from(noted: pb::NotedFailure) -> Result<Self, ConvertError> {
        let seen_by = optional(noted.seen_by).map(|text| worker_id(&text)).transpose();
        Ok(Self {
            time_unix_ms: to_unix_ms(&required("time", noted.time)?),
            role: enumeration::<pb::CausalRole, _>("role", noted.role)?,
            seen_by: seen_by.map_err(|error| ConvertError::new("seen_by", error.why))?,
            failure: required("failure", noted.failure)?
                .try_into()
                .map_err(|error: ConvertError| error.inside("failure"))?,
        })
    }
}

impl From<&Incident> for pb::Incident {
    fn from(incident: &Incident) -> Self {
        let times = &incident.times;
        let source = incident.source.map(pb::StateSource::from);
        Self {
            number: incident.number,
            epoch: incident.epoch.0,
            next_epoch: incident.next_epoch.map(|next| next.0),
            state: pb::IncidentState::from(incident.state).into(),
            failures: incident.failures.iter().map(Into::into).collect(),
            more_failures: incident.more_failures,
            decision: incident.decision.clone(),
            source: source.unwrap_or(pb::StateSource::Unspecified).into(),
            source_url: incident.source_url.clone().unwrap_or_default(),
            exact: incident.exact,
            last_step: incident.last_step,
            resumed_step: incident.resumed_step,
            detect_time: Some(from_unix_ms(times.detected)),
            decide_time: times.decided.map(from_unix_ms),
            place_time: times.placed.map(from_unix_ms),
            ready_time: times.ready.map(from_unix_ms),
            rejoin_time: times.rejoined.map(from_unix_ms),
        }
    }
}

impl TryFrom<pb::Incident> for Incident {
    type Error = ConvertError;

    fn try_from(incident: pb::Incident) -> Result<Self, ConvertError> {
        if incident.number == 0 {
            return Err(ConvertError::new("number", "is 0; incidents count from 1"));
        }
        let unknown = incident.source == i32::from(pb::StateSource::Unspecified);
        let source = (!unknown).then_some(incident.source);
        let ms = |time: Option<Timestamp>| time.as_ref().map(to_unix_ms);
        Ok(Self {
            number: incident.number,
            epoch: epoch(incident.epoch),
            next_epoch: incident.next_epoch.map(epoch),
            state: enumeration::<pb::IncidentState, _>("state", incident.state)?,
            failures: incident
                .failures
                .into_iter()
                .map(|noted| noted.try_into().map_err(|e: ConvertError| e.inside("failures")))
                .collect::<Result<_, _>>()?,
            more_failures: incident.more_failures,
            decision: incident.decision,
            source: source
                .map(|number| enumeration::<pb::StateSource, _>("source", number))
                .transpose()?,
            source_url: optional(incident.source_url),
            exact: incident.exact,
            last_step: incident.last_step,
            resumed_step: incident.resumed_step,
            times: IncidentTimes {
                detected: to_unix_ms(&required("detect_time", incident.detect_time)?),
                decided: ms(incident.decide_time),
                placed: ms(incident.place_time),
                ready: ms(incident.ready_time),
                rejoined: ms(incident.rejoin_time),
            },
        })
    }
}
