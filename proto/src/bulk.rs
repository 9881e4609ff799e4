//! Many objects at once: apply, plan, export and lists.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Discriminator, OneOfBuilder, Ref, RefOr, Schema},
};

use crate::{
    attachment::Attachment,
    convert::{FromPb, Path, ToPb, all, list, optional, parse},
    link::Link,
    namespace::Namespace,
    network::Network,
    object::{Draft, Kind, Noun, Object},
    pb,
    plan::{Plan, PlannedChange},
    policy::Policy,
    port_forward::PortForward,
    problem::Violations,
    reservation::Reservation,
    route::Route,
    text::{Name, Owner},
};

/// An apply or a list of drafts holds at most this many objects.
const APPLY_MAX: usize = 10_000;

/// Makes the sum of all nouns, once for drafts and once for objects.
macro_rules! any_noun {
    ($($noun:ident $field:ident,)*) => {
        /// A draft of any noun.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum AnyDraft { $($noun(Draft<$noun>),)* }

        /// An object of any noun. In JSON the field `kind` tells which.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged)]
        #[allow(missing_docs)]
        pub enum AnyObject { $($noun(Object<$noun>),)* }

        // Derived, each arm would be an object that nobody describes.
        impl ToSchema for AnyObject {
            fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                $(
                    schemas.push((Object::<$noun>::name().into(), Object::<$noun>::schema()));
                    Object::<$noun>::schemas(schemas);
                )*
            }
        }

        impl PartialSchema for AnyObject {
            fn schema() -> RefOr<Schema> {
                let arms = OneOfBuilder::new()$(.item(Ref::from_schema_name(Object::<$noun>::name())))*;
                let about = "An object of any noun. The field `kind` tells which.";
                arms.discriminator(Some(Discriminator::new("kind"))).description(Some(about)).into()
            }
        }

        impl AnyDraft {
            /// Which noun.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$noun(_) => Kind::$noun,)* }
            }

            /// The object's name.
            pub fn name(&self) -> &Name {
                match self { $(Self::$noun(draft) => &draft.name,)* }
            }

            /// Who makes it.
            pub fn owner_mut(&mut self) -> &mut Option<Owner> {
                match self { $(Self::$noun(draft) => &mut draft.owner,)* }
            }

            /// Reads a JSON object whose `kind` tells the noun.
            pub fn from_json(value: Value, at: &Path) -> Result<Self, Violations> {
                let here = at.field("kind");
                let Some(kind) = value.get("kind") else {
                    return Err(Violations::one(here.to_string(), "is required"));
                };
                let kind: Kind = parse(kind.as_str().unwrap_or_default(), &here)?;
                match kind { $(Kind::$noun => Draft::from_json(value, at).map(Self::$noun),)* }
            }
        }

        impl AnyObject {
            /// Which noun.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$noun(_) => Kind::$noun,)* }
            }

            /// The part that all nouns share.
            pub fn meta(&self) -> &crate::Meta {
                match self { $(Self::$noun(object) => &object.meta,)* }
            }

            /// The condition `Ready`.
            pub fn ready(&self) -> Option<&crate::Condition> {
                match self { $(Self::$noun(object) => object.status.ready(),)* }
            }

            /// Puts the plan of a dry run into the object.
            pub fn set_plan(&mut self, plan: Plan) {
                match self { $(Self::$noun(object) => object.plan = Some(plan),)* }
            }
        }

        impl<'de> Deserialize<'de> for AnyObject {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use serde::de::Error;
                let value = Value::deserialize(deserializer)?;
                let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
                match kind.parse::<Kind>().map_err(D::Error::custom)? {
                    $(Kind::$noun => serde_json::from_value(value).map(Self::$noun).map_err(D::Error::custom),)*
                }
            }
        }

        $(
            impl From<Draft<$noun>> for AnyDraft {
                fn from(draft: Draft<$noun>) -> Self { Self::$noun(draft) }
            }

            impl From<Object<$noun>> for AnyObject {
                fn from(object: Object<$noun>) -> Self { Self::$noun(object) }
            }

            impl TryFrom<AnyObject> for Object<$noun> {
                type Error = Kind;
                fn try_from(any: AnyObject) -> Result<Self, Kind> {
                    match any { AnyObject::$noun(object) => Ok(object), other => Err(other.kind()) }
                }
            }
        )*

        impl FromPb<pb::Object> for AnyDraft {
            fn from_pb(message: pb::Object, at: &Path) -> Result<Self, Violations> {
                match message.object {
                    $(Some(pb::object::Object::$noun(one)) => {
                        Draft::from_pb(one, &at.field(stringify!($field))).map(Self::$noun)
                    })*
                    None => Err(Violations::one(at.to_string(), "must hold exactly one object")),
                }
            }
        }

        impl ToPb<pb::Object> for AnyDraft {
            fn to_pb(&self) -> pb::Object {
                let object = match self { $(Self::$noun(draft) => pb::object::Object::$noun(draft.to_pb()),)* };
                pb::Object { object: Some(object) }
            }
        }

        impl FromPb<pb::Object> for AnyObject {
            fn from_pb(message: pb::Object, at: &Path) -> Result<Self, Violations> {
                match message.object {
                    $(Some(pb::object::Object::$noun(one)) => {
                        Object::from_pb(one, &at.field(stringify!($field))).map(Self::$noun)
                    })*
                    None => Err(Violations::one(at.to_string(), "must hold exactly one object")),
                }
            }
        }

        impl ToPb<pb::Object> for AnyObject {
            fn to_pb(&self) -> pb::Object {
                let object = match self { $(Self::$noun(one) => pb::object::Object::$noun(one.to_pb()),)* };
                pb::Object { object: Some(object) }
            }
        }

        impl AnyDraft {
            /// The draft as an entry of an export.
            pub fn to_export(&self) -> ExportObject {
                match self {
                    $(Self::$noun(Draft { name, labels, annotations, owner, spec }) => ExportObject {
                        kind: Kind::$noun,
                        name: name.clone(),
                        labels: labels.clone(),
                        annotations: annotations.clone(),
                        owner: owner.clone(),
                        spec: serde_json::to_value(spec).unwrap_or_default(),
                    },)*
                }
            }
        }
    };
}

any_noun! {
    Namespace namespace,
    Network network,
    Attachment attachment,
    PortForward port_forward,
    Reservation reservation,
    Route route, Link link, Policy policy,
}

/// The body of an apply.
#[derive(Clone, Debug, PartialEq, ToSchema)]
pub struct ApplyRequest {
    /// Spec, labels and annotations of each are replaced; what has the same kind and name stays the same object.
    #[schema(value_type = Vec<ExportObject>, max_items = 10_000)]
    pub objects: Vec<AnyDraft>,
    /// Written into every object that names no owner.
    pub owner: Option<Owner>,
    /// Delete what `owner`, which is required then, has beside the named objects.
    #[schema(default = false, required = false)]
    pub prune: bool,
    /// Take objects over that another owner holds; else they are refused.
    #[schema(default = false, required = false)]
    pub take_ownership: bool,
    /// All or none. False: what can be done is done, and each change says why it failed if it did.
    #[schema(default = true, required = false)]
    pub atomic: bool,
    /// Refuse when the database's count of intent is another.
    pub expect_revision: Option<i64>,
}

/// An object of any noun as a caller sends it; `kind` tells which, and `spec` is of that noun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ApplyObject)]
pub struct ExportObject {
    /// The noun.
    pub kind: Kind,
    /// Unique among its kind.
    pub name: Name,
    /// To select by.
    #[serde(default, skip_serializing_if = "empty_labels")]
    pub labels: crate::Labels,
    /// Kept, never read.
    #[serde(default, skip_serializing_if = "empty_annotations")]
    pub annotations: crate::Annotations,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// What is wanted.
    #[serde(default)]
    pub spec: Value,
}

fn empty_labels(labels: &crate::Labels) -> bool {
    labels.as_map().is_empty()
}

fn empty_annotations(annotations: &crate::Annotations) -> bool {
    annotations.as_map().is_empty()
}

impl ApplyRequest {
    /// These objects, all or none, and nothing else.
    pub fn new(objects: Vec<AnyDraft>) -> Self {
        let (owner, expect_revision) = (None, None);
        Self { objects, owner, prune: false, take_ownership: false, atomic: true, expect_revision }
    }

    fn checked(self, at: &Path) -> Result<Self, Violations> {
        if self.prune && self.owner.is_none() {
            let why = "is required to prune: only that owner's objects are deleted";
            return Err(Violations::one(at.field("owner").to_string(), why));
        }
        Ok(self)
    }

    /// Reads the body of an apply. Also takes what an export gives.
    pub fn from_json(value: Value) -> Result<Self, Violations> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wire {
            #[serde(default)]
            version: Option<String>,
            objects: Vec<Value>,
            #[serde(default)]
            owner: Option<Owner>,
            #[serde(default)]
            prune: bool,
            #[serde(default)]
            take_ownership: bool,
            #[serde(default)]
            atomic: Option<bool>,
            #[serde(default)]
            expect_revision: Option<i64>,
        }
        let Wire { version, objects, owner, prune, take_ownership, atomic, expect_revision } =
            crate::object::read_json(value, &Path::root())?;
        if version.is_some_and(|version| version != "v1") {
            return Err(Violations::one("version", "must be \"v1\""));
        }
        let here = Path::root().field("objects");
        check_count(objects.len(), &here)?;
        let drafts =
            objects.into_iter().enumerate().map(|(index, one)| AnyDraft::from_json(one, &here.item(index)));
        let (objects, atomic) = (drafts.collect::<Result<_, _>>()?, atomic.unwrap_or(true));
        Self { objects, owner, prune, take_ownership, atomic, expect_revision }.checked(&Path::root())
    }
}

fn check_count(count: usize, at: &Path) -> Result<(), Violations> {
    if count > APPLY_MAX {
        return Err(Violations::one(
            at.to_string(),
            format!("has {count} entries; at most {APPLY_MAX} are allowed"),
        ));
    }
    Ok(())
}

impl FromPb<pb::ApplyRequest> for ApplyRequest {
    fn from_pb(message: pb::ApplyRequest, at: &Path) -> Result<Self, Violations> {
        let pb::ApplyRequest { objects, owner, options: _, prune, take_ownership, atomic, expect_revision } =
            message;
        let here = at.field("objects");
        check_count(objects.len(), &here)?;
        let (objects, owner) = (list(objects, &here)?, optional(owner, &at.field("owner"))?);
        let atomic = atomic.unwrap_or(true);
        Self { objects, owner, prune, take_ownership, atomic, expect_revision }.checked(at)
    }
}

impl FromPb<pb::PlanRequest> for ApplyRequest {
    fn from_pb(message: pb::PlanRequest, at: &Path) -> Result<Self, Violations> {
        let pb::PlanRequest { objects, owner, prune, take_ownership, atomic, expect_revision } = message;
        let options = None;
        let same =
            pb::ApplyRequest { objects, owner, options, prune, take_ownership, atomic, expect_revision };
        Self::from_pb(same, at)
    }
}

impl ToPb<pb::ApplyRequest> for ApplyRequest {
    fn to_pb(&self) -> pb::ApplyRequest {
        let Self { objects, owner, prune, take_ownership, atomic, expect_revision } = self;
        pb::ApplyRequest {
            objects: all(objects),
            owner: owner.clone().map(String::from),
            options: None,
            prune: *prune,
            take_ownership: *take_ownership,
            atomic: Some(*atomic),
            expect_revision: *expect_revision,
        }
    }
}

impl ToPb<pb::PlanRequest> for ApplyRequest {
    fn to_pb(&self) -> pb::PlanRequest {
        let pb::ApplyRequest { objects, owner, options: _, prune, take_ownership, atomic, expect_revision } =
            self.to_pb();
        pb::PlanRequest { objects, owner, prune, take_ownership, atomic, expect_revision }
    }
}

/// What an apply did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApplyResponse {
    /// One per object, in the order of the request; then what was pruned.
    pub changes: Vec<PlannedChange>,
    /// The objects as they are now, in the same order; what was deleted as it was, and none of what could not be made.
    pub objects: Vec<AnyObject>,
    /// The database's count of intent after the apply.
    pub revision: i64,
    /// Only in the reply to a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

/// All intent, in a form that apply takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Export {
    /// `v1`.
    pub version: String,
    /// Sorted by kind and name.
    pub objects: Vec<ExportObject>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListPage<T> {
    /// In the order of their names.
    pub items: Vec<T>,
    /// Absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
    /// The position in the event log that this page is from; a watch starts after it.
    pub seq: i64,
}

impl FromPb<pb::ApplyResponse> for ApplyResponse {
    fn from_pb(message: pb::ApplyResponse, at: &Path) -> Result<Self, Violations> {
        let pb::ApplyResponse { changes, objects, revision, plan } = message;
        Ok(Self {
            changes: list(changes, &at.field("changes"))?,
            objects: list(objects, &at.field("objects"))?,
            revision,
            plan: plan.map(|plan| Plan::from_pb(plan, &at.field("plan"))).transpose()?,
        })
    }
}

impl ToPb<pb::ApplyResponse> for ApplyResponse {
    fn to_pb(&self) -> pb::ApplyResponse {
        let Self { changes, objects, revision, plan } = self;
        pb::ApplyResponse {
            changes: all(changes),
            objects: all(objects),
            revision: *revision,
            plan: plan.as_ref().map(ToPb::to_pb),
        }
    }
}

/// Whether a noun is in the sum; keeps the macro's list and [`Noun`] together.
const _: fn() = || {
    fn noun<N: Noun>() {}
    noun::<Namespace>();
    noun::<Network>();
    noun::<Attachment>();
    noun::<PortForward>();
    noun::<Reservation>();
    noun::<Route>();
};
