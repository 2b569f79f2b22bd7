use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::{TokenError, bearer};
use crate::{chance, clock};

/// A token that a task fetches, and fetches anew before it ends.
pub(crate) struct Kept {
    place: String,
    state: watch::Receiver<State>,
    /// When the token was fetched that is not good any more.
    refused: watch::Sender<Option<Instant>>,
    task: AbortHandle,
}

#[derive(Clone, Default)]
struct State {
    token: Option<Token>,
    /// Of the last attempt, if it failed.
    failure: Option<TokenError>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    fetched: Instant,
    end: Instant,
}

/// For one attempt.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Sources keep tokens too, and give the same one until shortly before its end.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);

impl Kept {
    pub(super) fn start<F>(place: String, fetch: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<Zeroizing<String>, TokenError>> + Send + 'static,
    {
        let (sender, state) = watch::channel(State::default());
        let (refused, refusals) = watch::channel(None);
        let task = tokio::spawn(keep(place.clone(), sender, refusals, fetch)).abort_handle();
        Self { place, state, refused, task }
    }

    /// Whether there is another token than the one of a call of that time: fetched at once, but for one that was fetched just
    /// now.
    pub(super) async fn renew(&self, called: Instant) -> bool {
        let mut state = self.state.clone();
        let fetched = match &*state.borrow_and_update() {
            State { token: Some(token), failure: None } => token.fetched,
            _ => return false,
        };
        if fetched >= called {
            return true;
        }
        if fetched.elapsed() < SHORTEST_LIFE {
            return false;
        }
        self.refused.send_replace(Some(fetched));
        state.changed().await.is_ok() && state.borrow().failure.is_none()
    }

    /// Waits for the first attempt alone; after that, there is a token or a reason.
    pub(super) async fn header(&self) -> Result<HeaderValue, TokenError> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| state.is_good() || state.failure.is_some()).await;
        let state = settled.map_err(|_| gone(&self.place))?.clone();
        match (state.is_good(), state.token, state.failure) {
            (true, Some(token), _) => Ok(token.header),
            (.., failure) => Err(failure.unwrap_or_else(|| gone(&self.place))),
        }
    }
}

impl State {
    fn is_good(&self) -> bool {
        self.token.as_ref().is_some_and(|token| Instant::now() < token.end)
    }
}

async fn keep<F>(
    place: String,
    state: watch::Sender<State>,
    mut refusals: watch::Receiver<Option<Instant>>,
    fetch: impl Fn() -> F,
) where
    F: Future<Output = Result<Zeroizing<String>, TokenError>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let fetched = timeout(PATIENCE, fetch()).await.unwrap_or_else(|_| Err(late(&place)));
        match fetched.and_then(|text| Token::read(&text, &place)) {
            Ok((token, life)) => {
                let fetched = token.fetched;
                state.send_replace(State { token: Some(token), failure: None });
                pause = FIRST_PAUSE;
                // Between 60 and 80 per cent of it.
                let soon = (life.mul_f64(0.4) + chance::around(life.mul_f64(0.4))).max(SHORTEST_LIFE);
                let refused = refusals.wait_for(|refused| *refused == Some(fetched));
                let _ = timeout(soon, refused).await;
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the token is not renewed");
                state.send_modify(|state| state.failure = Some(error));
                sleep(chance::around(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

impl Token {
    /// With how long it will live.
    fn read(text: &str, place: &str) -> Result<(Self, Duration), TokenError> {
        let problem = |problem: &str| TokenError::Source { place: place.to_owned(), problem: problem.to_owned() };
        let end = expiry(text).ok_or_else(|| problem("what it gave is no JWT that ends; see what it is asked for"))?;
        let life = clock::until(end);
        if life.is_zero() {
            return Err(problem("the token that it gave has ended; see the clocks on both sides"));
        }
        let header = bearer(text).ok_or_else(|| problem("what it gave cannot be sent; see what it is asked for"))?;
        let fetched = Instant::now();
        Ok((Self { header, fetched, end: fetched + life }, life))
    }
}

/// Of a JWT whose signature is the broker's affair.
fn expiry(token: &str) -> Option<SystemTime> {
    let mut parts = token.trim().split('.');
    let (_, claims, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
    let claims = Zeroizing::new(URL_SAFE_NO_PAD.decode(claims).ok()?);
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(claims.get("exp")?.as_f64()?).ok()?)
}

fn late(place: &str) -> TokenError {
    TokenError::Source { place: place.to_owned(), problem: format!("no answer within {PATIENCE:?}; see that it runs") }
}

fn gone(place: &str) -> TokenError {
    TokenError::Source { place: place.to_owned(), problem: "the runtime that renewed it has ended".to_owned() }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.place).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;

    type Answers = Arc<Mutex<VecDeque<Result<Zeroizing<String>, TokenError>>>>;

    fn token(name: &str, life: Duration) -> Zeroizing<String> {
        let end = clock::now() + life;
        jwt(name, end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
    }

    const FAR: Duration = Duration::from_secs(3600);

    fn jwt(name: &str, exp: u64) -> Zeroizing<String> {
        let claims = URL_SAFE_NO_PAD.encode(format!("{{\"sub\":\"{name}\",\"exp\":{exp}}}"));
        Zeroizing::new(format!("e30.{claims}.sig-{name}"))
    }

    fn failed() -> TokenError {
        TokenError::Source { place: "here".to_owned(), problem: "it is out".to_owned() }
    }

    fn kept(answers: &Answers) -> Kept {
        let answers = Arc::clone(answers);
        Kept::start("here".to_owned(), move || {
            let answer = answers.lock().unwrap().pop_front().unwrap_or_else(|| Err(failed()));
            async { answer }
        })
    }

    async fn sent(kept: &Kept) -> Result<String, TokenError> {
        kept.header().await.map(|header| header.to_str().unwrap().rsplit('-').next().unwrap().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn is_renewed_before_its_end_and_kept_until_then_while_it_cannot_be() {
        let answers = Answers::default();
        answers.lock().unwrap().extend([Ok(token("one", FAR)), Err(failed()), Ok(token("two", FAR))]);
        let kept = kept(&answers);
        assert_eq!(sent(&kept).await.unwrap(), "one");
        let mut state = kept.state.clone();
        state.wait_for(|state| state.failure.is_some()).await.unwrap();
        assert_eq!(sent(&kept).await.unwrap(), "one");
        state.wait_for(|state| state.failure.is_none()).await.unwrap();
        assert_eq!(sent(&kept).await.unwrap(), "two");
        // Nothing comes after it.
        let end = state.borrow().token.as_ref().unwrap().end;
        tokio::time::sleep_until(end - Duration::from_secs(1)).await;
        assert_eq!(sent(&kept).await.unwrap(), "two");
        tokio::time::sleep_until(end).await;
        assert_eq!(sent(&kept).await.unwrap_err().to_string(), "no token from here: it is out");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_refused_is_fetched_anew_once_for_all_and_not_on_and_on() {
        let answers = Answers::default();
        answers.lock().unwrap().extend([Ok(token("one", FAR)), Ok(token("two", FAR)), Ok(token("three", FAR))]);
        let kept = kept(&answers);
        assert_eq!(sent(&kept).await.unwrap(), "one");
        assert!(!kept.renew(Instant::now() + SHORTEST_LIFE).await, "what was fetched just now is as good as it gets");
        tokio::time::advance(FAR / 10).await;
        let called = Instant::now();
        let renewed = futures_util::future::join_all((0..100).map(|_| kept.renew(called))).await;
        assert!(renewed.iter().all(|renewed| *renewed));
        assert_eq!(sent(&kept).await.unwrap(), "two");
        assert_eq!(answers.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_waits_for_one_attempt() {
        let asked = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&asked);
        let kept = Kept::start("here".to_owned(), move || {
            *counted.lock().unwrap() += 1;
            async {
                sleep(Duration::from_secs(2)).await;
                Ok(token("one", FAR))
            }
        });
        let all = futures_util::future::join_all((0..100).map(|_| kept.header())).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(*asked.lock().unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_token_or_has_ended_is_told_and_never_shown() {
        for given in [Zeroizing::new("hunter2".to_owned()), jwt("hunter2", 1)] {
            let answers = Answers::default();
            answers.lock().unwrap().push_back(Ok(given));
            let kept = kept(&answers);
            let error = kept.header().await.unwrap_err();
            assert!(!format!("{error} {error:?} {kept:?}").contains("hunter2"), "{error}");
            assert!(error.to_string().starts_with("no token from here: "), "{error}");
        }
    }
}
