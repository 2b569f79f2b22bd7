//! A machine's own identity: the instance metadata service, and the endpoint of App Service and Container Apps.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::token::Refused;
use super::{Entra, EntraService, ManagedIdentity};
use crate::doubles::http::{Answer, json as answer};
use crate::doubles::identity::service::{Fields, header};

pub(super) fn imds_refusal(status: StatusCode, error: &str, said: &str) -> Answer {
    answer(status, &json!({ "error": error, "error_description": said }))
}

pub(super) fn app_service_refusal(status: StatusCode, said: &str) -> Answer {
    answer(status, &json!({ "statusCode": status.as_u16(), "message": said, "correlationId": null }))
}

impl Entra {
    pub(super) fn imds(&self, request: &Request<Bytes>) -> Answer {
        let invalid = |said: &str| imds_refusal(StatusCode::BAD_REQUEST, "invalid_request", said);
        // Both keep out requests that somebody was tricked into sending.
        if header(request, "metadata") != "true" {
            return invalid("Required metadata header not specified");
        }
        if request.headers().contains_key("x-forwarded-for") {
            return invalid("Requests that were forwarded are not answered");
        }
        if request.method() != Method::GET {
            return imds_refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Only GET is answered here");
        }
        let query = Fields::of_query(request);
        if query.get("api-version").is_none_or(|version| version < "2018-02-01") {
            return imds_refusal(
                StatusCode::BAD_REQUEST,
                "Bad request. api-version was not specified in the request",
                "For more information refer to the documentation of the metadata service",
            );
        }
        let Some(resource) = query.get("resource") else {
            return invalid("Required query variable 'resource' is missing");
        };
        let Some(identity) = self.assigned(&query) else {
            return invalid("Identity not found");
        };
        if !self.knows(resource) {
            let Refused { code, said, .. } = Refused::unknown_resource(resource);
            return imds_refusal(StatusCode::BAD_REQUEST, "invalid_resource", &format!("AADSTS{code}: {said}"));
        }
        let mut granted = self.granted_to(EntraService::Imds, &identity, resource);
        // Every value is a string here, numbers too.
        granted["expires_in"] = "3599".into();
        granted["ext_expires_in"] = "3599".into();
        granted["not_before"] = self.clock.now().as_secs().to_string().into();
        answer(StatusCode::OK, &granted)
    }

    pub(super) fn app_service(&self, request: &Request<Bytes>) -> Answer {
        let query = Fields::of_query(request);
        if header(request, "x-identity-header") != self.identity_header {
            return app_service_refusal(StatusCode::FORBIDDEN, "The identity header is missing or wrong.");
        }
        if query.get("api-version") != Some("2019-08-01") {
            return app_service_refusal(StatusCode::BAD_REQUEST, "The api-version is missing or unknown.");
        }
        let Some(resource) = query.get("resource").filter(|resource| self.knows(resource)) else {
            return app_service_refusal(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred.");
        };
        let Some(identity) = self.assigned(&query) else {
            let said = "No User Assigned or Delegated Managed Identity found for specified \
                        ClientId/ResourceId/PrincipalId.";
            return app_service_refusal(StatusCode::BAD_REQUEST, said);
        };
        answer(StatusCode::OK, &self.granted_to(EntraService::AppService, &identity, resource))
    }

    /// The one that the query names, else the system's own.
    fn assigned(&self, query: &Fields) -> Option<ManagedIdentity> {
        let directory = self.directory.lock().unwrap();
        let mut assigned = directory.assigned.iter();
        let named = match (query.get("client_id"), query.get("object_id")) {
            (Some(client_id), _) => assigned.find(|identity| identity.client_id == client_id),
            (None, Some(object_id)) => assigned.find(|identity| identity.object_id == object_id),
            (None, None) => assigned.next(),
        };
        named.cloned()
    }

    fn granted_to(&self, by: EntraService, identity: &ManagedIdentity, resource: &str) -> Value {
        let (_, end) = self.service(by).life(self.clock.now());
        json!({
            "access_token": self.managed_token(by, identity, resource), "client_id": identity.client_id,
            "expires_on": end.to_string(), "resource": resource, "token_type": "Bearer",
        })
    }

    pub(super) fn managed_token(&self, by: EntraService, identity: &ManagedIdentity, resource: &str) -> String {
        let more = json!({
            "appid": identity.client_id, "appidacr": "2", "oid": identity.object_id, "sub": identity.object_id,
        });
        self.access_token(by, resource, more)
    }
}
