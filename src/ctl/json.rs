//! Reads JSON (RFC 8259), as far as the control socket speaks it.

/// Deepest nesting. The process that answers faces clients; a document must not use up the stack.
const DEEPEST: usize = 16;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub(super) fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.iter().find(|(other, _)| other == name).map(|(_, value)| value),
            _ => None,
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        match self.get(name)? {
            Json::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn list(&self, name: &str) -> &[Json] {
        match self.get(name) {
            Some(Json::List(list)) => list,
            _ => &[],
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// One document; `None` if it is not well formed.
pub(super) fn parse(text: &str) -> Option<Json> {
    let mut reader = Reader { rest: text.trim_ascii() };
    let value = reader.value(DEEPEST)?;
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// Takes this text and the white space behind it.
    fn take(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?.trim_ascii_start();
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        let depth = depth.checked_sub(1)?;
        match self.rest.as_bytes().first()? {
            b'{' => self.sequence("{", "}", |reader| reader.member(depth)).map(Json::Object),
            b'[' => self.sequence("[", "]", |reader| reader.value(depth)).map(Json::List),
            b'"' => self.string().map(Json::Text),
            b'n' => self.take("null").map(|()| Json::Null),
            b't' => self.take("true").map(|()| Json::Bool(true)),
            b'f' => self.take("false").map(|()| Json::Bool(false)),
            _ => self.digits().map(Json::Number),
        }
    }

    fn member(&mut self, depth: usize) -> Option<(String, Json)> {
        let name = self.string()?;
        self.take(":")?;
        Some((name, self.value(depth)?))
    }

    fn sequence<T>(&mut self, open: &str, close: &str, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.take(open)?;
        let mut all = Vec::new();
        if self.take(close).is_some() {
            return Some(all);
        }
        loop {
            all.push(one(self)?);
            if self.take(close).is_some() {
                return Some(all);
            }
            self.take(",")?;
        }
    }

    fn digits(&mut self) -> Option<f64> {
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let number = self.rest.get(..end)?.parse().ok()?;
        self.rest = self.rest.get(end..)?.trim_ascii_start();
        Some(number)
    }

    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut rest = self.rest.strip_prefix('"')?;
        loop {
            let end = rest.find(['"', '\\'])?;
            text += rest.get(..end)?;
            let is_end = rest.as_bytes().get(end) == Some(&b'"');
            rest = rest.get(end + 1..)?;
            if is_end {
                self.rest = rest.trim_ascii_start();
                return Some(text);
            }
            text.push(escape(&mut rest)?);
        }
    }
}

/// What an escape stands for. Of a pair of surrogates both become the replacement character.
fn escape(rest: &mut &str) -> Option<char> {
    let kind = rest.chars().next()?;
    *rest = rest.get(kind.len_utf8()..)?;
    Some(match kind {
        '"' | '\\' | '/' => kind,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            let code = u32::from_str_radix(rest.get(..4)?, 16).ok()?;
            *rest = rest.get(4..)?;
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read() {
        let text = r#" {"a": [1, -2.5e3, null, true], "b" : {"c":"x\"\\\u00e4\n"}, "d":[], "e":{}} "#;
        let document = parse(text).expect("well formed");
        let list = vec![Json::Number(1.0), Json::Number(-2500.0), Json::Null, Json::Bool(true)];
        assert_eq!(document.get("a"), Some(&Json::List(list)));
        assert_eq!(document.get("b").and_then(|b| b.text("c")), Some("x\"\\ä\n"));
        assert_eq!((document.get("d"), document.get("f")), (Some(&Json::List(Vec::new())), None));
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for text in
            ["", "{", "{\"a\"}", "[1,]", "[1 2]", "\"a", "\"\\x\"", "\"\\u12\"", "nul", "1 2", "{\"a\":1,}", "-"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&"[".repeat(100_000)), None);
    }
}
