//! Documents from a text column of a Parquet file.
//!
//! In: a file, the (dotted) name of a column of byte arrays. Out: one document a row, rows in file order, a batch of
//! rows in memory. Null rows are left out. Deliberately absent: lists of texts, and columns of other types.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;

use crate::error::{DataError, Result, io};

const ROWS: usize = 64;

/// The documents of one column, read as they are asked for.
pub(crate) struct ParquetFile {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    column: usize,
    next_group: usize,
    group: Option<ColumnReaderImpl<ByteArrayType>>,
    /// Rows read but not handed out, last one first.
    rows: Vec<ByteArray>,
}

impl ParquetFile {
    pub(crate) fn open(path: &Path, field: &str) -> Result<Self> {
        let file = File::open(path).map_err(io(path))?;
        let fail = |why: String| DataError::Parquet {
            path: path.to_owned(),
            why,
        };
        let reader = SerializedFileReader::new(file).map_err(|e| fail(e.to_string()))?;
        let column = find(reader.metadata().file_metadata().schema_descr(), field).map_err(fail)?;
        Ok(Self {
            path: path.to_owned(),
            reader,
            column,
            next_group: 0,
            group: None,
            rows: Vec::new(),
        })
    }

    fn next_document(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(row) = self.rows.pop() {
                let text = std::str::from_utf8(row.data())
                    .map_err(|e| self.error(format!("a row isn't UTF-8: {e}")))?;
                return Ok(Some(text.to_owned()));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Reads the next batch of rows; false at the end of the file.
    fn fill(&mut self) -> Result<bool> {
        if self.group.is_none() && !self.open_group()? {
            return Ok(false);
        }
        let Some(group) = self.group.as_mut() else {
            return Ok(false);
        };
        let mut levels = Vec::new();
        match group.read_records(ROWS, Some(&mut levels), None, &mut self.rows) {
            Ok((0, ..)) => self.group = None,
            Ok(_) => self.rows.reverse(),
            Err(error) => return Err(self.error(error.to_string())),
        }
        Ok(true)
    }

    fn open_group(&mut self) -> Result<bool> {
        if self.next_group == self.reader.num_row_groups() {
            return Ok(false);
        }
        let opened = self
            .reader
            .get_row_group(self.next_group)
            .and_then(|g| g.get_column_reader(self.column));
        self.group = match opened.map_err(|e| self.error(e.to_string()))? {
            ColumnReader::ByteArrayColumnReader(column) => Some(column),
            _ => return Err(self.error("the text column changes its type between row groups".to_owned())),
        };
        self.next_group += 1;
        Ok(true)
    }

    fn error(&self, why: String) -> DataError {
        DataError::Parquet {
            path: self.path.clone(),
            why,
        }
    }
}

impl Iterator for ParquetFile {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_document().transpose()
    }
}

/// The index of the text column `field`.
fn find(schema: &SchemaDescriptor, field: &str) -> std::result::Result<usize, String> {
    let names = || {
        schema
            .columns()
            .iter()
            .map(|c| c.path().string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let index = schema.columns().iter().position(|c| c.path().string() == field);
    let index =
        index.ok_or_else(|| format!("no column {field:?}; set data.text_field to one of: {}", names()))?;
    let column = schema.column(index);
    if column.physical_type() != Type::BYTE_ARRAY || column.max_rep_level() != 0 {
        return Err(format!(
            "column {field:?} doesn't hold one text a row; set data.text_field to another of: {}",
            names()
        ));
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    const SCHEMA: &str =
        "message m { required int64 id; optional binary text (UTF8); repeated binary tags (UTF8); }";

    fn write(path: &Path, groups: &[&[Option<&str>]]) {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let file = File::create(path).unwrap();
        let mut writer =
            SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default())).unwrap();
        for rows in groups {
            let mut group = writer.next_row_group().unwrap();
            let ids: Vec<i64> = (0..rows.len() as i64).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column
                .typed::<parquet::data_type::Int64Type>()
                .write_batch(&ids, None, None)
                .unwrap();
            column.close().unwrap();
            let values: Vec<ByteArray> = rows.iter().flatten().map(|t| ByteArray::from(*t)).collect();
            let levels: Vec<i16> = rows.iter().map(|r| i16::from(r.is_some())).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column
                .typed::<ByteArrayType>()
                .write_batch(&values, Some(&levels), None)
                .unwrap();
            column.close().unwrap();
            let zeros = vec![0i16; rows.len()];
            let mut column = group.next_column().unwrap().unwrap();
            column
                .typed::<ByteArrayType>()
                .write_batch(&[], Some(&zeros), Some(&zeros))
                .unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
    }

    #[test]
    fn rows_come_in_order_across_batches_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.parquet");
        let many: Vec<String> = (0..200).map(|i| format!("row {i} é")).collect();
        let mut first: Vec<Option<&str>> = many.iter().map(|s| Some(s.as_str())).collect();
        first[70] = None;
        write(&path, &[&first, &[], &[None, Some("last")]]);
        let read: Vec<String> = ParquetFile::open(&path, "text")
            .unwrap()
            .collect::<Result<_>>()
            .unwrap();
        let expected: Vec<&str> = first.iter().copied().flatten().chain(["last"]).collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn other_columns_and_broken_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.parquet");
        write(&path, &[&[Some("a")]]);
        let error = |field: &str| {
            ParquetFile::open(&path, field)
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
        };
        assert!(error("body").contains("id, text, tags"), "{}", error("body"));
        assert!(error("id").contains("one text a row"));
        assert!(error("tags").contains("one text a row"));
        std::fs::write(&path, b"PAR1 not really").unwrap();
        assert!(error("text").contains("d.parquet"));
    }
}
