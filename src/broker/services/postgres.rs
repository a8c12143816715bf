//! Users in PostgreSQL: the first row of a query.

use super::stores::Fault;
use crate::access::lookup::{Ask, Lookup, Row};
use futures_lite::StreamExt;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A connection.
pub(super) struct Link(Client);

impl Link {
    /// Connects. The task of the connection ends with it.
    pub(super) async fn open(users: &Lookup) -> Result<Link, Fault> {
        let broken = |error: Error| Fault::Broken(text_of(&error));
        let config: Config = users.url.parse().map_err(broken)?;
        let tls = super::tls(users.ca.as_deref()).map_err(Fault::Broken)?;
        let (client, connection) =
            config.connect(MakeRustlsConnect::new(tls)).await.map_err(broken)?;
        tokio::task::spawn(async move {
            // Whoever asks next sees that it is closed.
            let _ = connection.await;
        });
        Ok(Link(client))
    }

    /// The columns of a user: `words` are the parameters, as text.
    pub(super) async fn ask(
        &mut self,
        users: &Lookup,
        words: &[String],
    ) -> Result<Option<Row>, Fault> {
        let Ask::Postgres(query, _) = &users.ask else { return Ok(None) };
        let fault = |error: Error| match self.0.is_closed() {
            true => Fault::Broken(text_of(&error)),
            false => Fault::Refused(text_of(&error)),
        };
        let parameters = words.iter().map(|word| (word.as_str(), Type::TEXT));
        let rows = self.0.query_typed_raw(query, parameters).await.map_err(fault)?;
        // Rows behind the first are read and forgotten by the connection's task.
        let mut rows = std::pin::pin!(rows);
        match rows.next().await {
            None => Ok(None),
            Some(Err(error)) => Err(fault(error)),
            Some(Ok(row)) => Ok(Some(columns(&row))),
        }
    }
}

fn columns(row: &tokio_postgres::Row) -> Row {
    let text = |at: usize, kind: &Type| -> Option<String> {
        match *kind {
            Type::BOOL => row.try_get::<_, Option<bool>>(at).ok()?.map(|value| value.to_string()),
            Type::INT2 => row.try_get::<_, Option<i16>>(at).ok()?.map(|value| value.to_string()),
            Type::INT4 => row.try_get::<_, Option<i32>>(at).ok()?.map(|value| value.to_string()),
            Type::INT8 => row.try_get::<_, Option<i64>>(at).ok()?.map(|value| value.to_string()),
            // PostgreSQL fills them up to their length.
            Type::BPCHAR => {
                let value = row.try_get::<_, Option<String>>(at).ok()?;
                value.map(|value| value.trim_end().to_owned())
            }
            _ => row.try_get::<_, Option<String>>(at).ok()?,
        }
    };
    let columns = row.columns().iter().enumerate();
    Row::of(columns.map(|(at, column)| (column.name(), text(at, column.type_()))))
}

/// What the server says, which is behind what the library says.
fn text_of(error: &Error) -> String {
    match error.as_db_error() {
        Some(said) => said.message().to_owned(),
        None => error.to_string(),
    }
}
