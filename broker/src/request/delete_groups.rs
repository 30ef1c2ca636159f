//! DeleteGroups: empty groups go, with their offsets (KIP-229).

use super::call::{Call, Handled, decode};
use super::groups::{MISMATCHED, ask, owned};
use crate::runtime::Runtime;
use logmill_state::admission::authorizer::Operation;
use logmill_state::group::{GroupReply, GroupRequest};
use logmill_wire::api::delete_groups::{DeletableGroupResult, Request, Response};
use logmill_wire::error_codes::ErrorCode;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(request.groups_names.len())?;
    let asked: Vec<_> = request
        .groups_names
        .iter()
        .map(|group_id| {
            let group_id = owned(&group_id);
            let delete = GroupRequest::Delete(group_id.clone());
            let asked = ask(&call, Operation::Delete, &group_id, delete);
            (group_id, asked)
        })
        .collect();
    let answer = call.answer;
    Ok(Box::pin(async move {
        let mut results = Vec::with_capacity(asked.len());
        for (group_id, asked) in asked {
            let error = match asked.reply().await {
                Ok(GroupReply::Delete(error)) => error,
                Ok(_) => MISMATCHED,
                Err(error) => error,
            };
            let message = (error != ErrorCode::None).then(|| error.description().into());
            results.push(DeletableGroupResult {
                group_id: group_id.to_string().into(),
                error_code: error.code(),
                error_message: message,
            });
        }
        answer.reply(&Response { results: results.into(), ..Response::default() })
    }))
}
