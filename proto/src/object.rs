//! The shape that all nouns share: what a caller sends, what the daemon answers.

use std::{borrow::Cow, collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, OneOfBuilder, Ref, RefOr, Schema, schema::ArrayBuilder, schema::SchemaType,
        schema::Type,
    },
};

use crate::{
    convert::Path,
    ids::{Etag, Uid},
    plan::Plan,
    problem::Violations,
    strict::Strict,
    text::{Annotations, Labels, Name, Owner},
    time::Timestamp,
};

/// The nouns that callers write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Kind {
    /// A named network stack.
    Namespace,
    /// A layer-2 segment.
    Network,
    /// An interface of a Namespace on a Network.
    Attachment,
    /// A published port.
    PortForward,
    /// An address that is kept back.
    Reservation,
    /// A route of a Namespace or of the host.
    Route,
    /// A direct cable.
    Link,
    /// Which traffic Attachments accept, or may send.
    Policy,
}

/// The nouns by their names.
pub const KIND_NAMES: [(Kind, &str); 8] = [
    (Kind::Namespace, "Namespace"),
    (Kind::Network, "Network"),
    (Kind::Attachment, "Attachment"),
    (Kind::PortForward, "PortForward"),
    (Kind::Reservation, "Reservation"),
    (Kind::Route, "Route"),
    (Kind::Link, "Link"),
    (Kind::Policy, "Policy"),
];

impl Kind {
    /// The noun as a word, e.g. `PortForward`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Network => "Network",
            Kind::Attachment => "Attachment",
            Kind::PortForward => "PortForward",
            Kind::Reservation => "Reservation",
            Kind::Route => "Route",
            Kind::Link => "Link",
            Kind::Policy => "Policy",
        }
    }

    /// The noun in a path, e.g. `port-forwards`.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Namespace => "namespaces",
            Kind::Network => "networks",
            Kind::Attachment => "attachments",
            Kind::PortForward => "port-forwards",
            Kind::Reservation => "reservations",
            Kind::Route => "routes",
            Kind::Link => "links",
            Kind::Policy => "policies",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = KIND_NAMES.iter().find(|(_, name)| *name == text);
        known.map(|(kind, _)| *kind).ok_or_else(|| {
            let names: Vec<&str> = KIND_NAMES.iter().map(|(_, name)| *name).collect();
            format!("{text:?} is not one of {}", names.join(", "))
        })
    }
}

/// A noun: its words, and the types of its spec and status.
pub trait Noun: Copy + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// Which noun.
    const KIND: Kind;
    /// What is wanted.
    type Spec: Clone
        + fmt::Debug
        + PartialEq
        + Serialize
        + DeserializeOwned
        + ToSchema
        + Send
        + Sync
        + 'static;
    /// What is, without the part that all nouns share.
    type Status: Clone
        + fmt::Debug
        + Default
        + PartialEq
        + Serialize
        + DeserializeOwned
        + ToSchema
        + Send
        + Sync
        + 'static;

    /// Checks what one field alone cannot tell.
    fn validate(spec: &Self::Spec, at: &Path) -> Result<(), Violations>;
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known yet.
    Unknown,
}

/// Why a condition is as it is; a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum ConditionReason {
    /// The kernel is as the spec wants it.
    Programmed,
    /// The work has not been done yet.
    Pending,
    /// Something that it needs is not there or not ready.
    DependencyNotReady,
    /// Something of somebody else's is in the way.
    Conflict,
    /// The namespace that it was made for is gone.
    NamespaceGone,
    /// Another process has the host port.
    PortTaken,
    /// The gateway of a Route is in no subnet that can be reached without one.
    GatewayUnreachable,
    /// The kernel refused; the message has its words.
    KernelError,
    /// IP forwarding is off and netloom may not switch it on.
    ForwardingDisabled,
    /// It is being deleted.
    Deleting,
}

macro_rules! words {
    ($type:ident: $($name:ident),*) => {
        impl $type {
            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }

        impl FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $(stringify!($name) => Ok(Self::$name),)*
                    other => Err(format!("{other:?} is not known")),
                }
            }
        }
    };
}

words!(ConditionStatus: True, False, Unknown);
words!(ConditionReason: Programmed, Pending, DependencyNotReady, Conflict, NamespaceGone, PortTaken, GatewayUnreachable,
    KernelError,
    ForwardingDisabled, Deleting);

/// One statement about the health of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    /// The statement: `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, as a word.
    pub reason: ConditionReason,
    /// Why, as a sentence; not part of the API.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The generation that the statement is about.
    pub observed_generation: i64,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
}

/// What the daemon says of an object: the shared part, then the noun's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status<T> {
    /// The generation that the kernel was last made to follow.
    pub observed_generation: i64,
    /// One condition, `Ready`.
    pub conditions: Vec<Condition>,
    /// The noun's own words.
    #[serde(flatten)]
    pub noun: T,
}

impl<T> Status<T> {
    /// The condition `Ready`.
    pub fn ready(&self) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == "Ready")
    }
}

/// What the daemon keeps of every object beside its spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Unique among its kind.
    pub name: Name,
    /// To select by.
    #[serde(default)]
    pub labels: Labels,
    /// Kept, never read.
    #[serde(default)]
    pub annotations: Annotations,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Identity.
    pub uid: Uid,
    /// Grows by one when the spec changes.
    pub generation: i64,
    /// The database's count of intent at its last change.
    pub revision: i64,
    /// When it was created.
    pub create_time: Timestamp,
    /// When its intent last changed.
    pub update_time: Timestamp,
    /// Set while it is being deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_time: Option<Timestamp>,
}

impl Meta {
    /// This version, for conditional writes.
    pub fn etag(&self) -> Etag {
        Etag { uid: self.uid, revision: self.revision }
    }
}

/// An object as the daemon answers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Object<N: Noun> {
    /// The part that all nouns share.
    pub meta: Meta,
    /// What is wanted.
    pub spec: N::Spec,
    /// What is.
    pub status: Status<N::Status>,
    /// Only in the reply to a dry run.
    pub plan: Option<Plan>,
}

/// An object as a caller sends it, its shape checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft<N: Noun> {
    /// Unique among its kind.
    pub name: Name,
    /// To select by.
    pub labels: Labels,
    /// Kept, never read.
    pub annotations: Annotations,
    /// Who makes it.
    pub owner: Option<Owner>,
    /// What is wanted.
    pub spec: N::Spec,
}

/// Fields that only the daemon writes; a request may carry them, e.g. when it sends back what it got, and they are ignored.
pub const OUTPUT_ONLY: [&str; 9] =
    ["status", "uid", "generation", "revision", "etag", "create_time", "update_time", "delete_time", "plan"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireDraft<S> {
    #[serde(default)]
    #[allow(dead_code)] // Read by `from_json`, which also compares it.
    kind: Option<Kind>,
    name: Name,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    annotations: Annotations,
    #[serde(default)]
    owner: Option<Owner>,
    spec: S,
}

impl<N: Noun> Draft<N> {
    /// A draft without labels, annotations and owner.
    pub fn new(name: Name, spec: N::Spec) -> Self {
        Self { name, labels: Labels::default(), annotations: Annotations::default(), owner: None, spec }
    }

    /// Reads a request's object. Unknown fields are errors, output-only ones are ignored.
    pub fn from_json(value: Value, at: &Path) -> Result<Self, Violations> {
        let Value::Object(mut fields) = value else {
            return Err(Violations::one(at.to_string(), "must be a JSON object"));
        };
        for field in OUTPUT_ONLY {
            fields.remove(field);
        }
        if let Some(kind) = fields.get("kind")
            && kind != N::KIND.as_str()
        {
            return Err(Violations::one(
                at.field("kind").to_string(),
                format!("must be {:?}", N::KIND.as_str()),
            ));
        }
        fields.entry("spec").or_insert_with(|| Value::Object(Map::new()));
        let WireDraft { kind: _, name, labels, annotations, owner, spec } =
            read_json(Value::Object(fields), at)?;
        Self { name, labels, annotations, owner, spec }.checked(at)
    }

    /// Checks what the fields mean together.
    pub fn checked(self, at: &Path) -> Result<Self, Violations> {
        N::validate(&self.spec, &at.field("spec"))?;
        Ok(self)
    }
}

/// Reads a JSON value into a type; the error has the path of the field.
pub(crate) fn read_json<T: DeserializeOwned>(value: Value, at: &Path) -> Result<T, Violations> {
    serde_path_to_error::deserialize(Strict(value)).map_err(|error| {
        let inner = error.path().to_string();
        let base = at.to_string();
        let field = match (base.is_empty(), inner.as_str()) {
            (true, ".") => String::new(),
            (true, inner) => inner.to_owned(),
            (false, ".") => base,
            (false, inner) => format!("{base}.{inner}"),
        };
        Violations::one(field, error.into_inner().to_string())
    })
}

#[derive(Serialize, Deserialize)]
#[serde(bound(
    serialize = "S: Serialize, T: Serialize",
    deserialize = "S: Deserialize<'de>, T: Deserialize<'de>"
))]
struct WireObject<S, T> {
    kind: Kind,
    #[serde(flatten)]
    meta: Meta,
    etag: Etag,
    spec: S,
    status: Status<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plan: Option<Plan>,
}

impl<N: Noun> Serialize for Object<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { meta, spec, status, plan } = self;
        WireObject {
            kind: N::KIND,
            meta: meta.clone(),
            etag: meta.etag(),
            spec,
            status: status.clone(),
            plan: plan.clone(),
        }
        .serialize(serializer)
    }
}

impl<'de, N: Noun> Deserialize<'de> for Object<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WireObject { kind, meta, etag: _, spec, status, plan } = WireObject::deserialize(deserializer)?;
        if kind != N::KIND {
            return Err(serde::de::Error::custom(format!("kind must be {}", N::KIND)));
        }
        Ok(Self { meta, spec, status, plan })
    }
}

impl<N: Noun> ToSchema for Object<N> {
    fn name() -> Cow<'static, str> {
        N::KIND.as_str().into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((N::Spec::name().into(), N::Spec::schema()));
        N::Spec::schemas(schemas);
        schemas.push((status_name::<N>(), status_schema::<N>()));
        N::Status::schemas(schemas);
        schemas.push((Plan::name().into(), Plan::schema()));
        Plan::schemas(schemas);
        schemas.push((Condition::name().into(), Condition::schema()));
        Condition::schemas(schemas);
    }
}

impl<N: Noun> PartialSchema for Object<N> {
    fn schema() -> RefOr<Schema> {
        let object = draft_schema::<N>()
            .property("status", Ref::from_schema_name(status_name::<N>()))
            .property("uid", Uid::schema())
            .property("generation", i64::schema())
            .property("revision", i64::schema())
            .property("etag", Etag::schema())
            .property("create_time", Timestamp::schema())
            .property("update_time", Timestamp::schema())
            .property("delete_time", Timestamp::schema())
            .property("plan", Ref::from_schema_name(Plan::name()));
        let always =
            ["kind", "labels", "annotations", "spec", "status", "uid", "generation", "revision", "etag"];
        let object = always.into_iter().fold(object, |object, field| object.required(field));
        object
            .required("create_time")
            .required("update_time")
            .description(Some(format!("The {} as it is.", N::KIND)))
            .into()
    }
}

impl<N: Noun> ToSchema for Draft<N> {
    fn name() -> Cow<'static, str> {
        format!("{}Draft", N::KIND).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((N::Spec::name().into(), N::Spec::schema()));
        N::Spec::schemas(schemas);
    }
}

impl<N: Noun> PartialSchema for Draft<N> {
    fn schema() -> RefOr<Schema> {
        // Unset, in the words of those whose tools write every field.
        let none = ObjectBuilder::new().schema_type(SchemaType::new(Type::Null));
        let owner = OneOfBuilder::new().item(Owner::schema()).item(none);
        let draft = draft_schema::<N>().property("owner", owner);
        draft.description(Some(format!("The {} as a caller sends it.", N::KIND))).into()
    }
}

/// The part of the schema that requests and replies share.
fn draft_schema<N: Noun>() -> ObjectBuilder {
    let kind =
        ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).enum_values(Some([N::KIND.as_str()]));
    ObjectBuilder::new()
        .property("kind", kind)
        .property("name", Name::schema())
        .property("labels", BTreeMap::<String, String>::schema())
        .property("annotations", BTreeMap::<String, String>::schema())
        .property("owner", Owner::schema())
        .property("spec", Ref::from_schema_name(N::Spec::name()))
        .required("name")
}

fn status_name<N: Noun>() -> String {
    N::Status::name().into_owned()
}

/// The noun's own status with the shared fields put first.
fn status_schema<N: Noun>() -> RefOr<Schema> {
    let mut schema = N::Status::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        let conditions = ArrayBuilder::new().items(Ref::from_schema_name(Condition::name()));
        object.properties.insert("observed_generation".into(), i64::schema());
        object.properties.insert("conditions".into(), conditions.into());
        object.required.extend(["observed_generation".into(), "conditions".into()]);
    }
    schema
}
