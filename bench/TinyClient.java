// A minimal manager in Java: connects with TLS 1.3 and a certificate, asks once, prints the answer.
// Arguments: host, port, certificate, key, authority, server's name, application. It stays connected.

import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

public final class TinyClient {
    private static final char[] NO_PASSWORD = {};

    public static void main(String[] words) throws Exception {
        SSLContext context = context(words[2], words[3], words[4]);
        int port = Integer.parseInt(words[1]);
        try (SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket(words[0], port)) {
            SSLParameters parameters = socket.getSSLParameters();
            parameters.setProtocols(new String[] {"TLSv1.3"});
            parameters.setApplicationProtocols(new String[] {"cmapp/1"});
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            parameters.setServerNames(java.util.List.of(new javax.net.ssl.SNIHostName(words[5])));
            socket.setSSLParameters(parameters);
            ask(socket, words[6]);
            socket.getInputStream().read();
        }
    }

    private static void ask(SSLSocket socket, String app) throws Exception {
        String hello = "{\"type\":\"hello\",\"seq\":1,\"software\":\"java\",\"instance\":\"java\"}\n";
        String question = "{\"type\":\"status\",\"seq\":2,\"apps\":[\"" + app + "\"]}\n";
        socket.getOutputStream().write((hello + question).getBytes(StandardCharsets.UTF_8));
        InputStream input = socket.getInputStream();
        byte[] buffer = new byte[65536];
        StringBuilder said = new StringBuilder();
        while (said.indexOf("\"type\":\"done\"") < 0) {
            int count = input.read(buffer);
            if (count < 0) {
                throw new IllegalStateException("the server has hung up");
            }
            said.append(new String(buffer, 0, count, StandardCharsets.UTF_8));
        }
        System.out.print(said);
        System.out.flush();
    }

    private static SSLContext context(String certificate, String key, String ca) throws Exception {
        KeyStore own = KeyStore.getInstance("PKCS12");
        own.load(null, NO_PASSWORD);
        own.setKeyEntry("own", key(key), NO_PASSWORD, new Certificate[] {certificate(certificate)});
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, NO_PASSWORD);
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, NO_PASSWORD);
        trusted.setCertificateEntry("ca", certificate(ca));
        String algorithm = TrustManagerFactory.getDefaultAlgorithm();
        TrustManagerFactory authorities = TrustManagerFactory.getInstance(algorithm);
        authorities.init(trusted);
        SSLContext context = SSLContext.getInstance("TLSv1.3");
        context.init(keys.getKeyManagers(), authorities.getTrustManagers(), null);
        return context;
    }

    private static Certificate certificate(String path) throws Exception {
        try (InputStream input = Files.newInputStream(Path.of(path))) {
            return CertificateFactory.getInstance("X.509").generateCertificate(input);
        }
    }

    private static PrivateKey key(String path) throws Exception {
        String text = Files.readString(Path.of(path)).replaceAll("-----[^-]+-----", "");
        byte[] bytes = Base64.getMimeDecoder().decode(text);
        return KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(bytes));
    }
}
