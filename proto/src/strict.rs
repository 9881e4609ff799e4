//! JSON in which an object is an object. serde takes a list for a struct, its items for the fields in their order; who sends
//! one has made a mistake, and the schema says so.

use serde::{
    Deserializer,
    de::{
        Error as _, IntoDeserializer, Unexpected, Visitor,
        value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Error, Value};

/// A value to read strictly.
pub(crate) struct Strict(pub Value);

impl<'de> IntoDeserializer<'de, Error> for Strict {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Strict {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.into_iter().map(Strict));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Strict(value)));
                let mut fields = MapDeserializer::new(fields);
                let value = visitor.visit_map(&mut fields)?;
                fields.end()?;
                Ok(value)
            }
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            other => Strict(other).deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(fields) if fields.len() == 1 => {
                let fields = fields.into_iter().map(|(name, value)| (name, Strict(value)));
                visitor.visit_enum(MapAccessDeserializer::new(MapDeserializer::new(fields)))
            }
            // What is no union is told as ever.
            other => other.deserialize_enum(name, variants, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{Draft, Link, Namespace, Network, convert::Path};

    #[test]
    fn a_list_is_no_object_at_any_depth() {
        let field = |spec| {
            let read = Draft::<Network>::from_json(json!({"name": "a", "spec": spec}), &Path::root());
            read.unwrap_err().0[0].field.clone()
        };
        assert_eq!(field(json!([])), "spec");
        assert_eq!(field(json!({"isolation": [true, true]})), "spec.isolation");
        assert_eq!(field(json!({"subnets": [["10.0.0.0/24"]]})), "spec.subnets[0]");
        assert!(field(json!({"egress": {"nat": []}})).starts_with("spec.egress"));
        assert!(field(json!({"kind": {"bridge": ["br0"]}})).starts_with("spec.kind"));
        assert!(field(json!({"egress": {"nat": {}, "none": {}}})).starts_with("spec.egress"));
    }

    #[test]
    fn what_is_right_is_read_as_ever() {
        let network = json!({"name": "a", "spec": {"kind": {"bridge": {"device": "br0"}}, "egress": {"nat": {}},
            "subnets": [{"cidr": "10.0.0.0/24", "ranges": [{"first": "10.0.0.5", "last": "10.0.0.9"}]}], "mtu": null}});
        Draft::<Network>::from_json(network, &Path::root()).unwrap();
        let ends = json!([{"namespace": "a", "interface": "x"}, {"namespace": "b", "interface": "y"}]);
        let link =
            |ends| Draft::<Link>::from_json(json!({"name": "a", "spec": {"ends": ends}}), &Path::root());
        link(ends.clone()).unwrap();
        let third = [ends.as_array().unwrap().clone(), vec![ends[0].clone()]].concat();
        assert_eq!(link(third.into()).unwrap_err().0[0].field, "spec.ends");
        let adopted = json!({"name": "a", "spec": {"source": {"adopted": {"pid": 7}}, "sysctls": {"net.ipv4.ip_forward": "1"}}});
        Draft::<Namespace>::from_json(adopted, &Path::root()).unwrap();
    }
}
