//! Canonical text, which is JSON, as the same tree: agents read thousands of policies at a start, and a reader of YAML
//! takes many times as long.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{
    fault::Spot,
    tree::{Key, Node, Value},
};

/// Where everything stands: nobody is told of it.
const NOWHERE: Spot = Spot { line: 1, column: 1, length: 1 };

/// The tree of a JSON text. A field that is given twice stands in it twice.
pub(crate) fn parse(text: &str) -> Option<Node> {
    serde_json::from_str::<Json>(text).ok().map(|json| json.0)
}

struct Json(Node);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(|value| Self(Node { spot: NOWHERE, value }))
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what canonical text has")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text { text: text.to_owned(), plain: false })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Text { text: number.to_string(), plain: true })
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Text { text: flag.to_string(), plain: true })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Json(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((text, Json(value))) = entries.next_entry::<String, Json>()? {
            fields.push((Key { text, spot: NOWHERE }, value));
        }
        Ok(Value::Map(fields))
    }
}
