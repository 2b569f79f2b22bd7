//! A policy taken apart: each of its conditions, put to the same request alone.

use std::str::FromStr as _;

use cedar_policy::{
    Authorizer, Decision, Entities, EvalResult, Expression, Policy, PolicySet, Request, eval_expression,
};
use serde_json::{Value as Json, json};

use super::Names;
use crate::suggestion::{distance, nearest};

const MAX_SHOWN_CHARS: usize = 200;
const MAX_VALUES: usize = 4;

pub(super) struct Condition {
    kind: Kind,
    body: Json,
}

#[derive(Clone, Copy)]
enum Kind {
    /// A constraint on the principal or the resource.
    Scope(&'static str),
    When,
    Unless,
}

/// In the order in which the policy states them. `unless` is refused by any one of its alternatives, so it is split there.
pub(super) fn take_apart(policy: &Json) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for name in ["principal", "resource"] {
        let body = &policy[name];
        if body["op"] != "All" {
            conditions.push(Condition { kind: Kind::Scope(name), body: body.clone() });
        }
    }
    for clause in policy["conditions"].as_array().into_iter().flatten() {
        let (kind, joint) = if clause["kind"] == "unless" { (Kind::Unless, "||") } else { (Kind::When, "&&") };
        split(&clause["body"], joint, &mut |body| conditions.push(Condition { kind, body: body.clone() }));
    }
    conditions
}

fn split(body: &Json, joint: &str, each: &mut dyn FnMut(&Json)) {
    match body.get(joint) {
        Some(sides) => {
            split(&sides["left"], joint, each);
            split(&sides["right"], joint, each);
        }
        None => each(body),
    }
}

impl Condition {
    /// One that fails to evaluate does not hold: its guard before it does not either.
    pub(super) fn holds(&self, authorizer: &Authorizer, request: &Request, entities: &Entities) -> bool {
        let set = self.alone().and_then(|policy| PolicySet::from_policies([policy]).ok());
        set.is_some_and(|set| {
            let response = authorizer.is_authorized(request, &set, entities);
            response.decision() == Decision::Allow
        })
    }

    /// The condition in Cedar's text, and what was there instead.
    pub(super) fn unmet(&self, request: &Request, entities: &Entities, names: &Names<'_>) -> String {
        let text = self.text().unwrap_or_else(|| "one of its conditions".to_owned());
        let said = match self.kind {
            Kind::Scope(_) => format!("it is for {text}"),
            Kind::When => format!("when {text}"),
            Kind::Unless => format!("unless {text}"),
        };
        let mut seen = Vec::new();
        let mut found = Vec::new();
        match self.kind {
            Kind::Scope("principal") => seen.extend(request.principal().map(|uid| format!("principal is {uid}"))),
            Kind::Scope(_) => seen.extend(request.resource().map(|uid| format!("resource is {uid}"))),
            Kind::When | Kind::Unless => {
                for access in accesses(&self.body).into_iter().take(MAX_VALUES) {
                    let Some(name) = text_of(access) else { continue };
                    let value = Expression::from_str(&name)
                        .ok()
                        .and_then(|expression| eval_expression(request, entities, &expression).ok());
                    match value {
                        Some(value) => {
                            strings(&value, &mut found);
                            seen.push(format!("{name} is {}", clipped(&value.to_string())));
                        }
                        None => seen.push(format!("{name} is not there")),
                    }
                }
                seen.extend(missing_tag(&self.body, names));
            }
        }
        // What an `unless` resembles would bring nothing in.
        if matches!(self.kind, Kind::When) {
            seen.extend(resemblance(&self.body, &found));
        }
        if seen.is_empty() { said } else { format!("{said}: {}", seen.join("; ")) }
    }

    fn text(&self) -> Option<String> {
        let text = self.alone()?.to_string();
        match self.kind {
            Kind::Scope(name) => {
                let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                let scope = &text[text.find('(')? + 1..text.rfind(')')?];
                let (principal, rest) = scope.split_once(", action")?;
                let (_, resource) = rest.split_once(", resource")?;
                let resource = format!("resource{resource}");
                Some(clipped(if name == "principal" { principal.trim() } else { resource.trim() }))
            }
            Kind::When | Kind::Unless => Some(one_line(&text[text.find('{')? + 1..text.rfind('}')?])),
        }
    }

    /// A policy of nothing but this condition.
    fn alone(&self) -> Option<Policy> {
        let all = json!({ "op": "All" });
        let mut policy =
            json!({ "effect": "permit", "principal": all, "action": all, "resource": all, "conditions": [] });
        match self.kind {
            Kind::Scope(name) => policy[name] = self.body.clone(),
            Kind::When => policy["conditions"] = json!([{ "kind": "when", "body": self.body }]),
            Kind::Unless => policy["conditions"] = json!([{ "kind": "unless", "body": self.body }]),
        }
        Policy::from_json(None, policy).ok()
    }
}

fn text_of(body: &Json) -> Option<String> {
    Condition { kind: Kind::When, body: body.clone() }.text()
}

/// The attributes and tags that it looks at, each with all of its path.
fn accesses(body: &Json) -> Vec<&Json> {
    match body {
        Json::Object(members) => {
            if members.contains_key(".") || members.contains_key("getTag") {
                return vec![body];
            }
            members.values().flat_map(accesses).collect()
        }
        Json::Array(items) => items.iter().flat_map(accesses).collect(),
        Json::String(_) | Json::Number(_) | Json::Bool(_) | Json::Null => Vec::new(),
    }
}

/// For `hasTag`: which claims or labels there are, and the one that was probably meant.
fn missing_tag(body: &Json, names: &Names<'_>) -> Option<String> {
    let asked = body.get("hasTag")?;
    let wanted = asked["right"]["Value"].as_str()?;
    let (what, there) = match asked["left"]["Var"].as_str()? {
        "principal" => ("claim", names.claims()),
        _ => ("label", names.labels()),
    };
    if there.is_empty() {
        return Some(format!("there is no {what} at all"));
    }
    let meant = nearest(wanted, there.iter().copied()).map(|near| format!("; {near:?} resembles it"));
    let listed = clipped(&there.join(", "));
    Some(format!("there is no {what} {wanted:?}, but {listed}{}", meant.unwrap_or_default()))
}

/// Two strings, one of the policy and one of the request, that are nearly the same.
fn resemblance(body: &Json, found: &[String]) -> Option<String> {
    let mut wanted = Vec::new();
    literals(body, &mut wanted);
    let pairs = wanted.iter().flat_map(|wanted| found.iter().map(move |found| (*wanted, found.as_str())));
    let near = pairs
        .filter(|(wanted, found)| wanted != found && wanted.len().max(found.len()) <= 80 && wanted.len() > 2)
        .map(|(wanted, found)| (distance(wanted, found), wanted, found))
        .filter(|&(letters, wanted, _)| letters <= 2 && letters < wanted.len() / 2)
        .min()?;
    let (letters, wanted, found) = near;
    Some(match letters {
        0 => format!("{found:?} differs from {wanted:?} in case alone"),
        1 => format!("{found:?} is one letter off {wanted:?}"),
        _ => format!("{found:?} is two letters off {wanted:?}"),
    })
}

/// The strings that a condition compares with; those that name a tag are not among them.
fn literals<'a>(body: &'a Json, into: &mut Vec<&'a str>) {
    match body {
        Json::Object(members) if members.contains_key("getTag") || members.contains_key("hasTag") => {}
        Json::Object(members) => {
            into.extend(members.get("Value").and_then(Json::as_str));
            members.values().for_each(|member| literals(member, into));
        }
        Json::Array(items) => items.iter().for_each(|item| literals(item, into)),
        Json::String(_) | Json::Number(_) | Json::Bool(_) | Json::Null => {}
    }
}

fn strings(value: &EvalResult, into: &mut Vec<String>) {
    match value {
        EvalResult::String(text) => into.push(text.clone()),
        EvalResult::Set(set) => set.iter().for_each(|item| strings(item, into)),
        EvalResult::Bool(_)
        | EvalResult::Long(_)
        | EvalResult::EntityUid(_)
        | EvalResult::Record(_)
        | EvalResult::ExtensionValue(_) => {}
    }
}

fn one_line(text: &str) -> String {
    clipped(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
