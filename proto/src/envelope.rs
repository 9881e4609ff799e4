//! The shared fields of every noun on their way to and from the generated messages.

use crate::{
    convert::{FromPb, Path, ToPb, parse},
    object::{Condition, Status},
    pb,
    problem::Violations,
};

/// Implements both directions for one noun: object in and out, draft in and out, wrapping into [`crate::AnyObject`].
macro_rules! envelope {
    ($noun:ident, $field:ident) => {
        impl $crate::convert::FromPb<pb::$noun> for $crate::Draft<$noun> {
            fn from_pb(message: pb::$noun, at: &Path) -> Result<Self, Violations> {
                // What only the daemon writes is ignored, so that a caller may send back what it got.
                let pb::$noun {
                    name,
                    labels,
                    annotations,
                    owner,
                    spec,
                    status: _,
                    uid: _,
                    generation: _,
                    revision: _,
                    etag: _,
                    create_time: _,
                    update_time: _,
                    delete_time: _,
                    plan: _,
                } = message;
                let text = |field: &str, why: String| Violations::one(at.field(field).to_string(), why);
                $crate::Draft {
                    name: $crate::convert::required(&name, &at.field("name"))?,
                    labels: labels.try_into().map_err(|why| text("labels", why))?,
                    annotations: annotations.try_into().map_err(|why| text("annotations", why))?,
                    owner: $crate::convert::optional(owner, &at.field("owner"))?,
                    spec: $crate::convert::FromPb::from_pb(spec.unwrap_or_default(), &at.field("spec"))?,
                }
                .checked(at)
            }
        }

        impl $crate::convert::ToPb<pb::$noun> for $crate::Draft<$noun> {
            fn to_pb(&self) -> pb::$noun {
                let Self { name, labels, annotations, owner, spec } = self;
                pb::$noun {
                    name: name.to_string(),
                    labels: labels.as_map().clone(),
                    annotations: annotations.as_map().clone(),
                    owner: owner.as_ref().map($crate::Owner::to_string),
                    spec: Some(spec.to_pb()),
                    ..Default::default() // The rest is output only.
                }
            }
        }

        impl $crate::convert::FromPb<pb::$noun> for $crate::Object<$noun> {
            fn from_pb(message: pb::$noun, at: &Path) -> Result<Self, Violations> {
                let pb::$noun {
                    name,
                    labels,
                    annotations,
                    owner,
                    spec,
                    status,
                    uid,
                    generation,
                    revision,
                    etag: _,
                    create_time,
                    update_time,
                    delete_time,
                    plan,
                } = message;
                let text = |field: &str, why: String| Violations::one(at.field(field).to_string(), why);
                Ok(Self {
                    meta: $crate::Meta {
                        name: $crate::convert::required(&name, &at.field("name"))?,
                        labels: labels.try_into().map_err(|why| text("labels", why))?,
                        annotations: annotations.try_into().map_err(|why| text("annotations", why))?,
                        owner: $crate::convert::optional(owner, &at.field("owner"))?,
                        uid: $crate::convert::required(&uid, &at.field("uid"))?,
                        generation,
                        revision,
                        create_time: create_time.unwrap_or_default().into(),
                        update_time: update_time.unwrap_or_default().into(),
                        delete_time: delete_time.map(Into::into),
                    },
                    spec: $crate::convert::FromPb::from_pb(spec.unwrap_or_default(), &at.field("spec"))?,
                    status: $crate::convert::FromPb::from_pb(
                        status.unwrap_or_default(),
                        &at.field("status"),
                    )?,
                    plan: plan.map(|plan| $crate::Plan::from_pb(plan, &at.field("plan"))).transpose()?,
                })
            }
        }

        impl $crate::convert::ToPb<pb::$noun> for $crate::Object<$noun> {
            fn to_pb(&self) -> pb::$noun {
                let Self { meta, spec, status, plan } = self;
                let etag = meta.etag().to_string();
                let $crate::Meta {
                    name,
                    labels,
                    annotations,
                    owner,
                    uid,
                    generation,
                    revision,
                    create_time,
                    update_time,
                    delete_time,
                } = meta;
                pb::$noun {
                    name: name.to_string(),
                    labels: labels.as_map().clone(),
                    annotations: annotations.as_map().clone(),
                    owner: owner.as_ref().map($crate::Owner::to_string),
                    spec: Some(spec.to_pb()),
                    status: Some(status.to_pb()),
                    uid: uid.to_string(),
                    generation: *generation,
                    revision: *revision,
                    etag,
                    create_time: Some((*create_time).into()),
                    update_time: Some((*update_time).into()),
                    delete_time: delete_time.map(Into::into),
                    plan: plan.as_ref().map(ToPb::to_pb),
                }
            }
        }
    };
}
pub(crate) use envelope;

impl<T> Status<T> {
    /// Puts the shared part of a status beside the noun's own.
    pub(crate) fn read(
        observed_generation: i64,
        conditions: Vec<pb::Condition>,
        noun: T,
        at: &Path,
    ) -> Result<Self, Violations> {
        let conditions = crate::convert::list(conditions, &at.field("conditions"))?;
        Ok(Self { observed_generation, conditions, noun })
    }
}

impl FromPb<pb::Condition> for Condition {
    fn from_pb(message: pb::Condition, at: &Path) -> Result<Self, Violations> {
        let pb::Condition { r#type, status, reason, message, observed_generation, last_transition_time } =
            message;
        Ok(Self {
            type_: r#type,
            status: parse(&status, &at.field("status"))?,
            reason: parse(&reason, &at.field("reason"))?,
            message,
            observed_generation,
            last_transition_time: last_transition_time.unwrap_or_default().into(),
        })
    }
}

impl ToPb<pb::Condition> for Condition {
    fn to_pb(&self) -> pb::Condition {
        let Self { type_, status, reason, message, observed_generation, last_transition_time } = self;
        pb::Condition {
            r#type: type_.clone(),
            status: status.as_str().to_owned(),
            reason: reason.as_str().to_owned(),
            message: message.clone(),
            observed_generation: *observed_generation,
            last_transition_time: Some((*last_transition_time).into()),
        }
    }
}
