//! Users and rules in PostgreSQL: the rows of a query.

use super::stores::DatabaseFault;
use crate::access::database::{Columns, Database, DatabaseQuery};
use crate::access::stored_rules::{MOST_BYTES, TOO_MANY};
use bytes::BytesMut;
use futures_lite::StreamExt;
use std::error::Error as StdError;
use tokio_postgres::types::{Format, FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A connection.
pub(super) struct PostgresConnection(Client);

impl PostgresConnection {
    /// Connects. The task of the connection ends with it.
    pub(super) async fn open(database: &Database) -> Result<PostgresConnection, DatabaseFault> {
        let broken = |error: Error| DatabaseFault::Broken(text_of(&error));
        let config: Config = database.url.parse().map_err(broken)?;
        let tls = super::tls(database.ca.as_deref()).map_err(DatabaseFault::Broken)?;
        let (client, connection) =
            config.connect(MakeRustlsConnect::new(tls)).await.map_err(broken)?;
        tokio::task::spawn(async move {
            // Whoever asks next sees that it is closed.
            let _ = connection.await;
        });
        Ok(PostgresConnection(client))
    }

    /// The first rows, at most so many: `words` are the parameters, as text.
    pub(super) async fn ask(
        &mut self,
        database: &Database,
        words: &[String],
        most: usize,
    ) -> Result<Vec<Columns>, DatabaseFault> {
        let DatabaseQuery::Postgres(query, _) = &database.ask else { return Ok(Vec::new()) };
        let fault = |error: Error| match self.0.is_closed() {
            true => DatabaseFault::Broken(text_of(&error)),
            false => DatabaseFault::Refused(text_of(&error)),
        };
        let parameters = words.iter().map(|word| (TextParameter(word), Type::UNKNOWN));
        let rows = self.0.query_typed_raw(query, parameters).await.map_err(fault)?;
        // Rows behind those are read and forgotten by the connection's task.
        let mut rows = std::pin::pin!(rows);
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next().await {
            let row = columns(&row.map_err(fault)?)?;
            bytes +=
                row.iter().map(|(_, text)| text.as_ref().map_or(0, String::len)).sum::<usize>();
            if bytes > MOST_BYTES {
                return Err(DatabaseFault::Refused(TOO_MANY.to_owned()));
            }
            found.push(row);
            if found.len() >= most {
                break;
            }
        }
        Ok(found)
    }
}

/// A parameter as text, whose type the server finds out: a column may be of any.
#[derive(Debug)]
struct TextParameter<'a>(&'a str);

impl ToSql for TextParameter<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// A column whose value is sent as the bytes of its text: texts of every kind, and enumerations.
struct TextBytes(String);

impl<'a> FromSql<'a> for TextBytes {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<TextBytes, Box<dyn StdError + Sync + Send>> {
        Ok(TextBytes(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(kind: &Type) -> bool {
        matches!(kind.kind(), Kind::Enum(_)) || <String as FromSql>::accepts(kind)
    }
}

/// Columns that say something; others may be of any type.
const READ: [&str; 9] = [
    "password_hash",
    "password",
    "salt",
    "is_superuser",
    "permission",
    "action",
    "topic",
    "qos",
    "retain",
];

/// Names and texts. A value that cannot be read must not be taken for one that is not there.
fn columns(row: &tokio_postgres::Row) -> Result<Columns, DatabaseFault> {
    let mut columns = Columns::new();
    for (at, column) in row.columns().iter().enumerate() {
        let name = column.name();
        match value(row, at, column.type_()) {
            Ok(text) => columns.push((name.to_owned(), text)),
            Err(_) if !READ.contains(&name) => {}
            Err(error) => return Err(DatabaseFault::Refused(format!("column {name}: {error}"))),
        }
    }
    Ok(columns)
}

fn value(row: &tokio_postgres::Row, at: usize, kind: &Type) -> Result<Option<String>, Error> {
    Ok(match *kind {
        Type::BOOL => row.try_get::<_, Option<bool>>(at)?.map(|value| value.to_string()),
        Type::INT2 => row.try_get::<_, Option<i16>>(at)?.map(|value| value.to_string()),
        Type::INT4 => row.try_get::<_, Option<i32>>(at)?.map(|value| value.to_string()),
        Type::INT8 => row.try_get::<_, Option<i64>>(at)?.map(|value| value.to_string()),
        Type::INT2_ARRAY => row.try_get::<_, Option<Vec<i16>>>(at)?.map(|all| list(&all)),
        Type::INT4_ARRAY => row.try_get::<_, Option<Vec<i32>>>(at)?.map(|all| list(&all)),
        // PostgreSQL fills them up to their length.
        Type::BPCHAR => {
            row.try_get::<_, Option<String>>(at)?.map(|value| value.trim_end().to_owned())
        }
        _ => row.try_get::<_, Option<TextBytes>>(at)?.map(|letters| letters.0),
    })
}

/// `1,2`.
fn list<T: ToString>(numbers: &[T]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What the server says, which is behind what the library says.
fn text_of(error: &Error) -> String {
    match error.as_db_error() {
        Some(said) => said.message().to_owned(),
        None => error.to_string(),
    }
}
